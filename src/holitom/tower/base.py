"""The base class of vision towers under a plan: where layers and projections are, attention from packed
rows."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from holitom.contract import Reuse
from holitom.errors import UnsupportedModelError
from holitom.models.base import Adapter
from holitom.models.values import EncodedImages
from holitom.ops.host import HOST, to_host
from holitom.tower.kinds import Kind
from holitom.tower.packing import Packing, Stretches
from holitom.tower.pixels import cells, changed
from holitom.tower.plan import Plan, plan

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Layout(Protocol):
    """Where the videos of one call are among a tower's `P` tokens.

    Attributes:
        pixels: for each video, `[T, S, ..., C, D, h, w]`: `S` places of `T` frames.
        others: number of images of the call that belong to no video.
        bounds: `[S + 1]` int64: first token of each step (frame, pair of frames, image), and the end of
            the last step.
    """

    @property
    def pixels(self) -> list[Tensor]: ...

    @property
    def others(self) -> int: ...

    @property
    def bounds(self) -> Ints: ...

    def tokens(self, plans: list[Plan]) -> tuple[Mask, Ints]:
        """Which tokens are computed, `[P]` bool, and the token whose output each takes, `[P]` int64."""


class Tower(ABC):
    """A stock vision tower, and the knowledge of its parts that running it under a plan takes.

    Attributes:
        adapter: the model's adapter.
        kind: the tower's kind.
        layers: the tower's layers, in order.
        attentions: the attention module of each layer.
    """

    def __init__(self, adapter: Adapter, kind: Kind) -> None:
        self.adapter, self.kind = adapter, kind
        self.module: Any = getattr(adapter.tower, "vision_model", adapter.tower)
        self.layers: list[nn.Module] = list(adapter.vision_layers)
        self.attentions: list[Any] = [getattr(layer, adapter.places[2]) for layer in self.layers]
        for attention in self.attentions:
            missing = [name for name in kind.projections if not callable(getattr(attention, name, None))]
            if missing:
                raise UnsupportedModelError(
                    f"computing a part of the vision tower needs {', '.join(missing)} of "
                    f"{type(attention).__name__}, which is not there; load the model without the "
                    "quantisation or kernel that replaces its attention"
                )

    @abstractmethod
    def lay_out(self, arguments: dict[str, Any], frames: list[list[int]] | None) -> Layout | None:
        """The layout of a call's videos; None where it does not follow from the arguments.

        Args:
            arguments: arguments of the trunk's encoder, by name.
            frames: for each video, which of the call's images are its frames, where videos come as images;
                else None.
        """

    @abstractmethod
    def stretches(self, arguments: dict[str, Any], grid: Tensor) -> Iterable[Ints]:
        """Indices of the tokens that attend to one another: for each length `L`, `[F, L]` of `F` stretches.

        Args:
            arguments: arguments of a layer's attention, by name.
            grid: the hidden states of all tokens, as they enter the first layer.
        """

    @abstractmethod
    def pack(self, hidden: Tensor, packing: Packing) -> Tensor:
        """Gather the computed tokens of the hidden states `hidden`, in the shape that a layer takes."""

    @abstractmethod
    def fill(self, rows: Tensor, packing: Packing, grid: Tensor) -> Tensor:
        """All tokens' hidden states from those of the computed `rows`, with the shape and strides of
        `grid`."""

    def reads(self, arguments: dict[str, Any]) -> frozenset[int]:
        """Indices of the layers whose output other modules read, for `arguments` of the trunk's encoder."""
        return frozenset({len(self.layers) - 1})

    def wants_all(self, arguments: dict[str, Any]) -> str | None:
        """The reason why a call needs the whole tower; None where it does not."""
        for name in ("output_hidden_states", "output_attentions"):
            if arguments.get(name) or getattr(self.module.config, name, False):
                return f"{name} asks for those of every layer"
        first: Any = self.layers[0]
        if first.training and getattr(first, "gradient_checkpointing", False):
            return "gradient checkpointing would run its layers again"
        return None

    def frames_of(self, arguments: dict[str, Any], input_ids: Tensor | None) -> list[list[int]] | None:
        """For each video that comes as images, the indices of its frames; None without `input_ids` to
        tell."""
        adapter: Any = self.adapter
        if adapter.modality == "video" or input_ids is None:
            return None
        rows, columns = adapter.grid
        count = int(adapter.shown(arguments[adapter.pixels_name]).sum())
        number = torch.arange(count, device=HOST).repeat_interleave(rows * columns)
        images = EncodedImages(
            number[:, None], torch.zeros(len(number), device=HOST), ((rows, columns),) * count
        )
        videos = adapter.locate([images], adapter.located_by({"input_ids": input_ids}))
        return [video.features[:, 0, 0].tolist() for video in videos]

    def plans(self, reuse: Reuse, layout: Layout) -> list[Plan]:
        """The plan of each video. Takes one device synchronisation for all of them."""
        return plan_videos(layout.pixels, self.kind, reuse)

    def project(self, attention: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[n, heads, d]` of `rows` `[n, D]`."""
        *inputs, _ = self.kind.projections
        if len(inputs) == 1:
            query, key, value = getattr(attention, inputs[0])(rows).chunk(3, dim=-1)
        else:
            query, key, value = (getattr(attention, name)(rows) for name in inputs)
        if self.kind.norm == "before":
            query, key = attention.q_norm(query), attention.k_norm(key)
        query, key, value = (x.unflatten(-1, (attention.num_heads, -1)) for x in (query, key, value))
        if self.kind.norm == "after":
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query, key, value

    def attend(
        self, attention: Any, rows: Tensor, stretches: Stretches, rotary: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The output `[n, D]` of `attention` at the computed tokens, with the model's own attention kernel.

        Args:
            attention: the attention module of one layer.
            rows: `[n, D]`: the module's input at the computed tokens.
            stretches: which tokens attend to which.
            rotary: cosines and sines at the computed tokens, where the tower has rotary positions.
        """
        query, key, value = self.project(attention, rows)
        own: Any = sys.modules[type(attention).__module__]
        if rotary is not None:
            query, key = own.apply_rotary_pos_emb_vision(query, key, *rotary)
        interface = own.ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, own.eager_attention_forward
        )
        scale = attention.scaling if hasattr(attention, "scaling") else attention.scale
        drop = attention.attention_dropout if hasattr(attention, "attention_dropout") else attention.dropout

        def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            found: Tensor = interface(
                attention,
                query,
                key,
                value,
                attention_mask=None,
                scaling=scale,
                dropout=drop if attention.training else 0.0,
                is_causal=False,
            )[0]
            return found

        found: Tensor = getattr(attention, self.kind.projections[-1])(
            stretches.attend(query, key, value, kernel)
        )
        return found


def plan_videos(videos: list[Tensor], kind: Kind, reuse: Reuse) -> list[Plan]:
    """The plan of each of `videos` (shapes as in `Layout.pixels`) in a tower of `kind`."""
    threshold = kind.threshold if reuse.threshold is None else float(reuse.threshold)
    std = kind.std if reuse.pixel_std is None else reuse.pixel_std
    masks = [changed(cells(video, std), threshold, reuse.reach) for video in videos]
    if not masks:
        return []
    host = to_host(torch.cat([mask.flatten() for mask in masks]))
    parts = np.split(host, np.cumsum([mask.numel() for mask in masks])[:-1])
    return [plan(part.reshape(mask.shape)) for part, mask in zip(parts, masks, strict=True)]
