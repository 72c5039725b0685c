"""One file a paper: its hyper-parameters, and what it does with a video's tokens."""

from holitom.methods.base import InnerStage, Method
from holitom.methods.holitom import HoliTom

__all__ = ["HoliTom", "InnerStage", "Method"]
