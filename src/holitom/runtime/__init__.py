"""The only place that hooks a live model: attach, detach, and what the run reported."""

from holitom.runtime.attach import Handle, Run, attach, attached
from holitom.runtime.report import Report, VideoReport

__all__ = ["Handle", "Report", "Run", "VideoReport", "attach", "attached"]
