"""Find the report of each forward; a prefill announces it, and every forward updates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from holitom.runtime.cache import layer_bytes, unmerged_bytes
from holitom.runtime.call import Call
from holitom.runtime.forward import Forward
from holitom.runtime.report import Report, mark


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
