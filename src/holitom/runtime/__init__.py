"""Hooks on a live model: attach and detach a method, plan each forward, report what it did."""

from holitom.runtime.attach import Handle, Run, attach, attached
from holitom.runtime.report import Report, VideoReport

__all__ = ["Handle", "Report", "Run", "VideoReport", "attach", "attached"]
