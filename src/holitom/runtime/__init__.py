"""The only place that hooks a live model: attach, detach, and what the run reported."""

from holitom.runtime.report import Report, VideoReport
from holitom.runtime.session import Handle, Run, attach, attached

__all__ = ["Handle", "Report", "Run", "VideoReport", "attach", "attached"]
