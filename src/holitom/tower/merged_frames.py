"""Merging whole frames between the layers of one vision tower (EarlyTom's stage I).

Behind some of its layers the tower continues with fewer frames. Where hidden states are read outside the
layers, a merged frame gets those of the frame that it is part of. So code behind the tower finds all frames,
and `VideoTokens.left` lists those that are left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holitom.contract import FrameMerging
from holitom.errors import SettingsError, UnsupportedModelError, UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.ops.frame_groups import FrameMerge, merge_frames
from holitom.ops.host import HOST, to_device
from holitom.tower.base import Ints, Mask
from holitom.tower.framed import FramedTower
from holitom.tower.hooks import Arguments, hook_layers
from holitom.tower.kinds import KINDS

LAYERS, OF = (10, 21, 23), 26
"""Layers behind which frames merge in most of the authors' scripts, and SigLIP's number of layers."""


@dataclass
class Call:
    """One call of a tower whose frames merge.

    Attributes:
        tower: the tower.
        merging: settings.
        behind: layers behind which frames merge.
        reads: layers whose output is read outside the layers.
        at: for each video, the numbers of its frames in the batch, ascending.
        rows: numbers of the frames of the batch that layers work on now, ascending.
        latest: the latest merge; None before the first.
        grid: a meta tensor with shape and strides of the hidden states that entered the first layer.
    """

    tower: FramedTower
    merging: FrameMerging
    behind: frozenset[int]
    reads: frozenset[int]
    at: list[Ints]
    rows: Ints
    latest: FrameMerge | None = None
    grid: Tensor = field(default_factory=lambda: torch.empty(0, device=HOST))

    def enter(self, index: int, hidden: Tensor) -> Tensor:
        """The hidden states that enter layer `index`: those of the frames left."""
        if index == 0:
            self.grid = torch.empty_strided(hidden.shape, hidden.stride(), device="meta")
        return self.left(hidden) if index - 1 in self.reads else hidden

    def other(self, argument: Any) -> Any:
        """The value of another argument of a layer: masks `[F, 1, P, P]` are cut to the frames left."""
        every = isinstance(argument, Tensor) and argument.dim() == 4 and len(argument) == len(self.grid)
        return self.left(argument) if every else argument

    def leave(self, index: int, hidden: Tensor) -> Tensor:
        """The hidden states that leave layer `index`: merged, and of all frames if they are read outside."""
        if index in self.behind:
            hidden = self._merge(hidden)
        if index in self.reads and len(hidden) < len(self.grid):
            hidden = self.tower.laid(self.spread(hidden), self.grid)
        return hidden

    def left(self, frames: Tensor) -> Tensor:
        """Select from all frames `[F, ...]` those that layers work on."""
        if len(frames) == len(self.rows):
            return frames
        return frames.index_select(0, to_device(self.rows, frames.device))

    def spread(self, rows: Tensor) -> Tensor:
        """Expand the frames that layers work on to all frames `[F, ...]`: each gets the one it is part of."""
        owner = np.arange(len(self.grid))
        for at in self.at:
            stays = at[np.isin(at, self.rows)]
            owner[at] = stays[np.searchsorted(stays, at, "right") - 1]
        return rows.index_select(0, to_device(np.searchsorted(self.rows, owner), rows.device))

    def read(self, values: Tensor) -> Tensor:
        """Merge `values` `[f, ...]` of the frames before the latest merge, and expand to all `[F, ...]`."""
        return values if self.latest is None else self.spread(self.latest(values))

    @property
    def stays(self) -> Mask:
        """Whether each frame of the batch is left, `[F]` bool."""
        return np.isin(np.arange(len(self.grid)), self.rows)

    def _merge(self, hidden: Tensor) -> Tensor:
        """Merge the frames of each video behind a layer."""
        alone = np.isin(self.rows, np.concatenate(self.at), invert=True).nonzero()[0]
        source, other, share = [alone], [alone], [np.ones(len(alone))]
        for at in self.at:
            where = np.isin(self.rows, at).nonzero()[0]
            found = merge_frames(
                hidden.index_select(0, to_device(where, hidden.device)),
                segment_threshold=self.merging.segment_threshold,
                max_frames=self.merging.max_frames,
                momentum=self.merging.momentum,
            )
            source.append(where[found.source])
            other.append(where[found.other])
            share.append(found.share)
        first = np.concatenate(source)
        order = first.argsort()
        self.latest = FrameMerge(
            first[order], np.concatenate(other)[order], np.concatenate(share)[order], [], len(self.rows)
        )
        self.rows = self.rows[self.latest.source]
        return self.latest(hidden)


_call: ContextVar[Call | None] = ContextVar("holitom_merged_frames", default=None)


class MergedFrames:
    """Merging of whole frames in the vision tower of one model, until `detach`.

    Attributes:
        tower: the tower.
        behind: layers behind which frames merge, ascending; importance is read in the last of them.

    Raises:
        UnsupportedModelError: the model's tower does not take frames as a batch.
        SettingsError: the tower does not have the layers.
    """

    def __init__(self, adapter: Adapter, merging: FrameMerging) -> None:
        trunk: Any = adapter.trunk
        name = trunk.config.vision_config.model_type
        if name not in KINDS or KINDS[name].frames != "stacked":
            batched = sorted(each for each, kind in KINDS.items() if kind.frames == "stacked")
            raise UnsupportedModelError(
                f"merging whole frames inside the vision tower takes a tower whose frames are a batch "
                f"({', '.join(batched)}), and {type(trunk).__name__}'s, of type {name!r}, gets all frames' "
                "patches in one sequence whose bounds are fixed before its first layer; leave in_tower off"
            )
        self.merging = merging
        self.tower = FramedTower(adapter, KINDS[name])
        read = next(i for i, each in enumerate(self.tower.attentions) if each is adapter.vision_attention)
        self.behind = _behind(merging, read + 1)
        self._hooks = hook_layers(self.tower, _call)

    def detach(self) -> None:
        """Take every hook off the tower. Calling it again does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def call(self, arguments: Arguments, input_ids: Tensor | None = None) -> Iterator[Call | None]:
        """Merge frames in calls of the trunk's encoder inside the block.

        Args:
            arguments: arguments of the encoder, by name.
            input_ids: `[B, L]`: the prompt; where frames are images, it tells which images are frames.

        Yields:
            The call, which knows the frames left once the tower has run; None where frames do not merge,
            because they cannot be told from images.

        Raises:
            UnsupportedUsageError: there are frames, and the call needs all of them in every layer.
        """
        found = self.tower.batch(arguments, self.tower.frames_of(arguments, input_ids))
        call = None
        if found is not None and found.at:
            if (why := self.tower.wants_all(arguments)) is not None:
                raise UnsupportedUsageError(
                    f"frames cannot merge inside the vision tower: {why}; set in_tower=False or drop that"
                )
            reads = self.tower.reads(arguments)
            rows = np.arange(len(found.pixels))
            call = Call(self.tower, self.merging, frozenset(self.behind), reads, found.at, rows)
        token = _call.set(call)
        try:
            yield call
        finally:
            _call.reset(token)


def _behind(merging: FrameMerging, depth: int) -> tuple[int, ...]:
    """The layers behind which frames merge, given the `depth` layers whose output becomes the features."""
    if merging.layers is None:
        return tuple(sorted({min(depth - 1, round(layer * depth / OF)) for layer in LAYERS}))
    if merging.layers[-1] >= depth:
        raise SettingsError(
            f"tower_layers must be in 0..{depth - 1}, the layers of this tower that make features, got "
            f"{merging.layers!r}"
        )
    return merging.layers
