"""Run the vision tower in a call of a model's video encoder, and read importance and keys from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from holitom.contract import Merges, Reuse
from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.interface import interface_error
from holitom.models.parts import FIELDS, Parts
from holitom.models.values import EncodedImages, Read
from holitom.ops.host import HOST
from holitom.runtime.batches import USUAL_BATCH, batches, parts_of, steps_of
from holitom.runtime.call import Calls, Kwargs
from holitom.runtime.encoded import Encoded
from holitom.runtime.encoder_output import carrying, features_of
from holitom.runtime.forward import by_name
from holitom.runtime.reading import Reading, joined
from holitom.runtime.report import Mark, mark
from holitom.tower import MergedFrames, ReusedTower
from holitom.tower.merged_frames import Call as MergedCall
from holitom.tower.session import Planned


def _with_left(videos: list[Any], stays: Tensor) -> list[Any]:
    """Mark the frames that the tower kept after merging frames.

    Args:
        videos: the result of an adapter's `videos`: `VideoTokens`, or one `EncodedImages`.
        stays: `[F]` bool on the host: which frames and images of the call the tower kept.
    """
    if isinstance(videos[0], EncodedImages):
        tokens = torch.tensor([prod(size) for size in videos[0].sizes], device=HOST)
        return [replace(videos[0], left=stays.repeat_interleave(tokens))]
    own = torch.split(stays, [len(video.features) for video in videos])
    return [
        video if bool(left.all()) else replace(video, left=tuple(left.nonzero()[:, 0].tolist()))
        for video, left in zip(videos, own, strict=True)
    ]


class Tower:
    """The vision tower of an attached model.

    Attributes:
        adapter: the model's adapter.
        method: the method, which says what is read from the tower.
        calls: the open calls of each thread.
        owner: the run that the encoded videos belong to.
        reuse: settings of reuse; None: the tower computes every patch.
        reads: the adapter that reads importance and keys.
        early: the adapter that reads importance at an early layer; None where the method needs none, or where
            the tower merges patches or frames inside.
        wanted: names of what is read, see `holitom.models.values.Read`.
    """

    def __init__(self, adapter: Adapter, method: Merges, calls: Calls, owner: object) -> None:
        self.adapter, self.method, self.calls, self.owner = adapter, method, calls, owner
        self.reuse, merging = Reuse.of(method.reuse), method.frame_merging
        shallow = method.needs_shallow and adapter.early and merging is None
        self.early = adapter.reading(adapter.shallow_layer) if shallow else None
        early = () if self.early is None else (self.early.vision_attention,)
        self._merged = None if merging is None else MergedFrames(adapter, merging)
        self.reads = adapter if self._merged is None else adapter.reading(self._merged.behind[-1])
        self._reused = None if self.reuse is None else ReusedTower(adapter, *early)
        read = {"importance": method.needs_importance, "keys": method.needs_keys, "shallow": bool(early)}
        self.wanted = {name for name, needed in read.items() if needed}

    def detach(self) -> None:
        """Remove the hooks of reuse and of frame merging."""
        for each in (self._reused, self._merged):
            if each is not None:
                each.detach()

    def encode(self, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """Call the model's video encoder, and add an `Encoded` to its result.

        Args:
            encode: `get_video_features` (or `get_image_features`) of the model.
            args: positional arguments of `encode`.
            kwargs: arguments of `encode` by name.
        """
        given = by_name(encode, args, kwargs)
        device = given[self.adapter.pixels_name].device
        began = mark(device)
        planned = self._planned(given)
        parts = None
        if self.method.tower_batch is not None and self._merged is None:
            parts = parts_of(self.adapter, given, self.method.tower_batch)
        if parts is not None:
            return self._in_batches(encode, given, parts, planned, [(began, mark(device))])
        with self._reading(given) as reading, self._driven(given, planned) as merged:
            output = encode(*args, **kwargs)
        if isinstance(output, tuple):  # return_dict=False: a user's own call; no forward passes it
            return output
        self._check(output, reading)
        videos = self._videos(output, given, reading.read, merged)
        return self._carrying(output, videos, [(began, mark(device))], planned)

    def encode_parts(self, encode: Callable[..., Any], given: Kwargs, parts: Parts) -> Any:
        """Encode videos that come in parts; each part is asked for after the part before was encoded.

        Args:
            encode: as in `encode`.
            given: arguments of the encoder for all parts, by name; pixels may be on the meta device.
            parts: the parts, which make the encoder's arguments for a range of steps.

        Raises:
            UnsupportedUsageError: the tower has reuse or frame merging, which need all frames at once.
        """
        if self._reused is not None or self._merged is not None:
            raise UnsupportedUsageError(
                "reuse and frame merging in the vision tower compare frames before the first is encoded; "
                "give all pixels at once"
            )
        return self._in_batches(encode, given, parts, None, [])

    def _in_batches(
        self,
        encode: Callable[..., Any],
        given: Kwargs,
        parts: Parts,
        planned: Planned | None,
        spans: list[tuple[Mark, Mark]],
    ) -> Any:
        """Encode all parts, join their outputs, and add an `Encoded` to the result."""
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
        return self._carrying(output, videos, spans, planned)

    def _carrying(
        self, output: Any, videos: list[Any], spans: list[tuple[Mark, Mark]], planned: Planned | None
    ) -> Any:
        """Return the encoder's `output` with an `Encoded` of its `videos`."""
        reuse, features = None if planned is None else planned.report, features_of(output)
        return carrying(output, Encoded(self.owner, videos, spans, reuse=reuse, features=features))

    def _check(self, output: Any, reading: Reading) -> None:
        """Raise an `InterfaceError` unless the encoder returned features and the hooks read its attention."""
        if not is_dataclass(output) or getattr(output, "pooler_output", None) is None:
            raise interface_error(
                f"{self.adapter.encoder} returns a {type(output).__name__} without the features in "
                "pooler_output"
            )
        if self.wanted - reading.read.keys():
            raise interface_error(
                f"{self.adapter.encoder} ran without the attention of the tower's layer that is read"
            )

    @contextmanager
    def _reading(self, given: Kwargs) -> Iterator[Reading]:
        """Open a reading, which the hooks on the tower's attention fill inside the block."""
        attends = self.wanted & {"importance", "shallow"}
        reading = Reading(self.adapter.attention_lengths(given) if attends else [])
        self.calls.readings.append(reading)
        try:
            yield reading
        finally:
            self.calls.readings.pop()

    def _videos(self, output: Any, given: Kwargs, read: Read, merged: MergedCall | None) -> list[Any]:
        """Let the adapter make videos of the encoder's output and of what was read."""
        if merged is None:
            return self.adapter.videos(output, given, read)
        read = {name: merged.read(values) for name, values in read.items()}
        return _with_left(self.adapter.videos(output, given, read), torch.from_numpy(merged.stays))

    def _planned(self, given: Kwargs) -> Planned | None:
        """Plan which patches a call of the encoder with arguments `given` computes; None without reuse."""
        if self._reused is None or self.reuse is None:
            return None
        return self._reused.plan(self.reuse, given, self.calls.prompt)

    @contextmanager
    def _driven(
        self, given: Kwargs, planned: Planned | None, steps: tuple[int, int] | None = None
    ) -> Iterator[MergedCall | None]:
        """Make the encoder follow the plan of reuse, or merge frames, inside the block.

        Args:
            given: arguments of the call of the encoder, by name.
            planned: the plan of reuse; None without reuse.
            steps: first step of the call and the step behind its last; None: all steps of the plan.
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
        """Read importance and keys from the attention module of the tower's last layer, as it is called."""
        if not self.calls.readings:
            return
        reading = self.calls.readings[-1]
        given = by_name(module.forward, args, kwargs)
        with torch.no_grad():
            if "importance" in self.wanted:
                reading.read["importance"] = self.reads.importance(given, reading.lengths)
            if "keys" in self.wanted:
                reading.read["keys"] = self.reads.keys(given)

    def see_early(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        """Read importance from the attention module of the early layer, as it is called."""
        if self.calls.readings and self.early is not None:
            reading, given = self.calls.readings[-1], by_name(module.forward, args, kwargs)
            with torch.no_grad():
                reading.read["shallow"] = self.early.importance(given, reading.lengths)
