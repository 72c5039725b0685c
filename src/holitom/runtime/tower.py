"""Driving and reading the vision tower in one call of a model's video encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import nn

from holitom.contract import Merges, Reuse
from holitom.models.base import Adapter
from holitom.models.interface import interface_error
from holitom.runtime.call import Calls, Kwargs, Reading
from holitom.runtime.encoded import Encoded, carrying, with_left
from holitom.runtime.forward import by_name
from holitom.runtime.report import mark
from holitom.tower import MergedFrames, ReusedTower, ReuseReport
from holitom.tower.merged_frames import Call as MergedCall


class Tower:
    """The vision tower of an attached model.

    Attributes:
        adapter: the model.
        method: what says which read-outs are needed.
        calls: what each thread has under way.
        reuse: settings of reuse; None where the tower runs as ever.
        reads: the adapter that reads importance and keys.
        early: the one that reads early importance; None where none is wanted, or the tower merges patches or
            frames on its way.
    """

    def __init__(self, adapter: Adapter, method: Merges, calls: Calls) -> None:
        self.adapter, self.method, self.calls = adapter, method, calls
        self.reuse, merging = Reuse.of(method.reuse), method.frame_merging
        shallow = method.needs_shallow and adapter.early and merging is None
        self.early = adapter.reading(adapter.shallow_layer) if shallow else None
        early = () if self.early is None else (self.early.vision_attention,)
        self._merged = None if merging is None else MergedFrames(adapter, merging)
        self.reads = adapter if self._merged is None else adapter.reading(self._merged.behind[-1])
        self._reused = None if self.reuse is None else ReusedTower(adapter, *early)

    def detach(self) -> None:
        """Take off what reuse and merging of frames have hooked."""
        for each in (self._reused, self._merged):
            if each is not None:
                each.detach()

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
        reading = Reading(self.adapter.attention_lengths(given) if self._reads_attention else [])
        self.calls.readings.append(reading)
        try:
            with self._planned(given) as (report, merged):
                output = encode(*args, **kwargs)
        finally:
            self.calls.readings.pop()
        if isinstance(output, tuple):  # return_dict=False: somebody looks at features, no forward does
            return output
        if not is_dataclass(output) or getattr(output, "pooler_output", None) is None:
            raise interface_error(
                f"{self.adapter.encoder} returns a {type(output).__name__} without the features in "
                "pooler_output"
            )
        if (
            (self.method.needs_importance and reading.importance is None)
            or (self.method.needs_keys and reading.keys is None)
            or (self.early is not None and reading.shallow is None)
        ):
            raise interface_error(
                f"{self.adapter.encoder} ran without the attention of the tower's layer that is read"
            )
        return carrying(
            output,
            Encoded(owner, self._videos(output, given, reading, merged), (began, mark(device)), reuse=report),
        )

    @property
    def _reads_attention(self) -> bool:
        return self.method.needs_importance or self.early is not None

    def _videos(self, output: Any, given: Kwargs, reading: Reading, merged: MergedCall | None) -> list[Any]:
        """What was encoded, as the adapter tells."""
        importance, keys = reading.importance, reading.keys
        if merged is not None:
            importance = None if importance is None else merged.read(importance)
            keys = None if keys is None else merged.read(keys)
        videos = self.adapter.videos(output, given, importance, keys)
        if reading.shallow is not None:
            early = self.adapter.videos(output, given, reading.shallow)
            videos = [
                replace(video, shallow=other.importance) for video, other in zip(videos, early, strict=True)
            ]
        return videos if merged is None else with_left(videos, torch.from_numpy(merged.stays))

    @contextmanager
    def _planned(self, given: Kwargs) -> Iterator[tuple[ReuseReport | None, MergedCall | None]]:
        """The call of the encoder with arguments `given`, with reuse or merging of frames where wanted."""
        if self._reused is not None and self.reuse is not None:
            with self._reused.call(self.reuse, given, self.calls.prompt) as report:
                yield report, None
        elif self._merged is not None:
            with self._merged.call(given, self.calls.prompt) as merged:
                yield None, merged
        else:
            yield None, None

    def see(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        """Read the attention module of the tower's layer that tells importance as it is entered."""
        if not self.calls.readings:
            return
        reading = self.calls.readings[-1]
        given = by_name(module.forward, args, kwargs)
        with torch.no_grad():
            if self.method.needs_importance:
                reading.importance = self.reads.importance(given, reading.lengths)
            if self.method.needs_keys:
                reading.keys = self.reads.keys(given)

    def see_early(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        """Likewise the early layer's."""
        if self.calls.readings and self.early is not None:
            reading = self.calls.readings[-1]
            with torch.no_grad():
                reading.shallow = self.early.importance(
                    by_name(module.forward, args, kwargs), reading.lengths
                )
