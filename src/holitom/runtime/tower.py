"""Driving and reading the vision tower in one call of a model's video encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from holitom.contract import Merges, Reuse
from holitom.models.base import Adapter
from holitom.models.interface import interface_error
from holitom.runtime.call import Calls, Kwargs, Reading
from holitom.runtime.encoded import Encoded, carrying
from holitom.runtime.forward import by_name
from holitom.runtime.report import mark
from holitom.tower import ReusedTower, ReuseReport


class Tower:
    """The vision tower of an attached model.

    Attributes:
        adapter: the model.
        method: what says which read-outs are needed.
        calls: what each thread has under way.
        reuse: settings of reuse; None where the tower runs as ever.
    """

    def __init__(self, adapter: Adapter, method: Merges, calls: Calls) -> None:
        self.adapter, self.method, self.calls = adapter, method, calls
        self.reuse = Reuse.of(method.reuse)
        self._reused = None if self.reuse is None else ReusedTower(adapter)

    def detach(self) -> None:
        """Take off what reuse has hooked."""
        if self._reused is not None:
            self._reused.detach()

    def encode(self, owner: object, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """The model's own encoding of videos, whose result carries what merging needs.

        Args:
            owner: of the `Encoded`.
            encode: `get_video_features` (or `get_image_features`) of the model.
            args: its arguments.
            kwargs: likewise.
        """
        given = by_name(encode, args, kwargs)
        device = given[self.adapter.pixels_name].device
        began = mark(device)
        reading = Reading(self.adapter.attention_lengths(given) if self.method.needs_importance else [])
        self.calls.readings.append(reading)
        try:
            with self._planned(given) as report:
                output = encode(*args, **kwargs)
        finally:
            self.calls.readings.pop()
        if isinstance(output, tuple):  # return_dict=False: somebody looks at features, no forward does
            return output
        if (self.method.needs_importance and reading.importance is None) or (
            self.method.needs_keys and reading.keys is None
        ):
            raise interface_error(
                f"{self.adapter.encoder} ran without the attention of the tower's layer that is read"
            )
        videos = self.adapter.videos(output, given, reading.importance, reading.keys)
        return carrying(output, Encoded(owner, videos, (began, mark(device)), reuse=report))

    def _planned(self, given: Kwargs) -> AbstractContextManager[ReuseReport | None]:
        """The call of the encoder with arguments `given`, with reuse where it is wanted."""
        if self._reused is None or self.reuse is None:
            return nullcontext()
        return self._reused.call(self.reuse, given, self.calls.prompt)

    def see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        """Read the attention module of the tower's last layer as it is entered."""
        if not self.calls.readings:
            return
        reading = self.calls.readings[-1]
        given = by_name(module.forward, args, kwargs)
        with torch.no_grad():
            if self.method.needs_importance:
                reading.importance = self.adapter.importance(given, reading.lengths)
            if self.method.needs_keys:
                reading.keys = self.adapter.keys(given)
