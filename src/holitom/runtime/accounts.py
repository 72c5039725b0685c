"""Make a report of merged videos, find the report of each forward, and update it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from holitom.runtime.assignment import Assignment
from holitom.runtime.cache import layer_bytes, unmerged_bytes
from holitom.runtime.call import Call
from holitom.runtime.encoded import MergedVideos
from holitom.runtime.forward import Forward
from holitom.runtime.report import Report, VideoReport, mark
from holitom.tower import ReuseReport


class Accounts:
    """Finds the report of each forward and updates it.

    Attributes:
        tell: called with each new report.
    """

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self.tell = tell
        self._reports: WeakKeyDictionary[Any, Report] = WeakKeyDictionary()  # by the cache that the run fills

    def count(self, call: Call, cache: Any, device: torch.device, forward: Forward | None) -> None:
        """Add a forward's times, and the present size of the cache, to the report of its videos.

        Args:
            call: the call whose language model has just ended.
            cache: the cache that it has filled; None without one.
            device: the device of its output.
            forward: its forward with merged tokens; None where the stock forward ran.
        """
        report = call.report
        if report is None and cache is not None:
            report = self._reports.get(cache)
        elif report is None and call.encoded is not None:
            report = call.encoded.report
        if report is None:
            return
        now = mark(device)
        if call.report is not None:
            report.add("prefill", call.began, now)
            if forward is not None and forward.inner is not None:
                for span in forward.inner.spans:
                    report.add("inner", *span)
            if cache is not None:
                self._reports[cache] = report
            self.tell(report)
        report.decoded(now)
        if cache is not None:
            report.kv_bytes = sum(map(layer_bytes, cache.layers))
            report.kv_bytes_full = unmerged_bytes(cache)

    def stepped(self, cache: Any, device: torch.device) -> None:
        """Add the time of a compiled step over `cache`, whose graph calls no hook."""
        report = self._reports.get(cache)
        if report is not None:
            report.decoded(mark(device))


def report_on(
    found: MergedVideos, assignment: Assignment, frames_per_step: int, reuse: ReuseReport | None
) -> Report:
    """Report on newly merged videos.

    Args:
        found: the videos.
        assignment: their placeholders.
        frames_per_step: number of frames that the tower encodes together.
        reuse: the share that the vision tower computed; None where it ran without reuse.
    """
    return Report(
        [
            VideoReport(
                row=row,
                steps=video.features.shape[0],
                tokens_per_step=video.features.shape[1],
                frames_per_step=frames_per_step,
                sent=sent.slot.shape[0],
                outer=dict(merged.stages),
                segments=list(merged.segments),
                frame=merged.frame,
                position=merged.position,
                size=merged.size,
                grid=video.grid,
                importance=video.importance,
                origins=merged.origins,
                place=sent.slot if sent.place is None else sent.place,
                first_number=first,
            )
            for row, video, merged, sent, first in zip(
                assignment.rows, found.videos, found.merged, found.sent, assignment.borders[:-1], strict=True
            )
        ],
        reuse=reuse,
    )
