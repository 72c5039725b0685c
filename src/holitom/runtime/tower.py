"""Driving and reading the vision tower in one call of a model's video encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import nn

from holitom.contract import Merges, Reuse
from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.interface import interface_error
from holitom.models.parts import FIELDS, Parts
from holitom.runtime.batches import USUAL_BATCH, batches, joined, parts_of, steps_of
from holitom.runtime.call import Calls, Kwargs, Reading
from holitom.runtime.encoded import Encoded, carrying, with_left
from holitom.runtime.forward import by_name
from holitom.runtime.report import Mark, mark
from holitom.tower import MergedFrames, ReusedTower, ReuseReport
from holitom.tower.merged_frames import Call as MergedCall
from holitom.tower.session import Planned


def _report(planned: Planned | None) -> ReuseReport | None:
    return None if planned is None else planned.report


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
        planned = self._planned(given)
        parts = None
        if self.method.tower_batch is not None and self._merged is None:
            parts = parts_of(self.adapter, given, self.method.tower_batch)
        if parts is not None:
            return self._in_batches(owner, encode, given, parts, planned, [(began, mark(device))])
        with self._reading(given) as reading, self._driven(given, planned) as merged:
            output = encode(*args, **kwargs)
        if isinstance(output, tuple):  # return_dict=False: somebody looks at features, no forward does
            return output
        self._check(output, reading)
        videos = self._videos(output, given, reading, merged)
        return carrying(output, Encoded(owner, videos, [(began, mark(device))], reuse=_report(planned)))

    def encode_parts(self, owner: object, encode: Callable[..., Any], given: Kwargs, parts: Parts) -> Any:
        """`encode` for videos that come in `parts`, each asked for when the one before was encoded.

        Args:
            owner: of the `Encoded`.
            encode: as in `encode`.
            given: arguments of the encoder for all parts, by name; pixels may be on the meta device.
            parts: what to encode.

        Raises:
            UnsupportedUsageError: the tower reuses, or merges frames, which takes all of them.
        """
        if self._reused is not None or self._merged is not None:
            raise UnsupportedUsageError(
                "reuse and merging of frames in the vision tower compare frames before the first is encoded; "
                "give all pixels at once"
            )
        return self._in_batches(owner, encode, given, parts, None, [])

    def _in_batches(
        self,
        owner: object,
        encode: Callable[..., Any],
        given: Kwargs,
        parts: Parts,
        planned: Planned | None,
        spans: list[tuple[Mark, Mark]],
    ) -> Any:
        """The encoder's output for all parts, which carries what merging needs."""
        borders = None if planned is None else planned.borders
        size = steps_of(self.adapter, self.method.tower_batch or USUAL_BATCH)
        found, readings, kind = [], [], None
        for first, last in batches(parts.steps, size, borders):
            part = parts.arguments(first, last)
            device = part[self.adapter.pixels_name].device
            began = mark(device)
            with self._reading(part) as reading, self._driven(part, planned, (first, last)):
                output = encode(**{**part, "return_dict": True})
            self._check(output, reading)
            kind = type(output)
            found.append({name: getattr(output, name, None) for name in FIELDS})
            readings.append(reading)
            spans.append((began, mark(device)))
        assert kind is not None, "there is a step"
        output = kind(**parts.joined(found))
        videos = self._videos(output, given, joined(readings), None)
        return carrying(output, Encoded(owner, videos, spans, reuse=_report(planned)))

    def _check(self, output: Any, reading: Reading) -> None:
        """Raise `InterfaceError` unless the encoder returned features, and was read while it ran."""
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

    @contextmanager
    def _reading(self, given: Kwargs) -> Iterator[Reading]:
        """What is read of the tower's attention inside the block."""
        reading = Reading(self.adapter.attention_lengths(given) if self._reads_attention else [])
        self.calls.readings.append(reading)
        try:
            yield reading
        finally:
            self.calls.readings.pop()

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

    def _planned(self, given: Kwargs) -> Planned | None:
        """What is to be computed in a call of the encoder with arguments `given`; None without reuse."""
        if self._reused is None or self.reuse is None:
            return None
        return self._reused.plan(self.reuse, given, self.calls.prompt)

    @contextmanager
    def _driven(
        self, given: Kwargs, planned: Planned | None, steps: tuple[int, int] | None = None
    ) -> Iterator[MergedCall | None]:
        """The call of the encoder with arguments `given`, as planned or with merging of frames where wanted.

        `steps`: of the planned ones, the first and the one behind the last that are in it; None: all.
        """
        if self._reused is not None and planned is not None:
            with self._reused.run(planned, given[self.adapter.pixels_name].device, steps):
                yield None
        elif self._merged is not None:
            with self._merged.call(given, self.calls.prompt) as merged:
                yield merged
        else:
            yield None

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
