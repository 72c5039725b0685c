"""Reuse in vLLM's vision towers, by the plans of `holitom.tower`.

All attentions of these towers end in one module, which gets finished queries, keys and values (projected,
normalised, rotated). So a layer runs over the computed patches of all frames as rows of one matrix, with its
own norms, MLP and linears, tensor parallel ones too; only that module is replaced, by attention of the rows
to the patches of their frame or window. Every rank makes the same plan from the same pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holitom.contract import Reuse
from holitom.errors import UnsupportedUsageError
from holitom.methods.base import Method
from holitom.models.packed import stretches
from holitom.ops.host import to_host
from holitom.tower.base import Ints, Layout, plan_videos
from holitom.tower.framed import Frames, patches_of
from holitom.tower.kinds import Kind, kind_named
from holitom.tower.packed import Blocks
from holitom.tower.packing import Packing, Stretches
from holitom.wrapping import Wrapped

LEVELS = (1 / 255,) * 3
"""For pixels that vLLM normalises on the device (`mm_device_do_normalize`): they are levels of 0..255
here."""


@dataclass
class _Call:
    """One video in the tower under its plan.

    Attributes:
        tower: the tower.
        packing: the packing of the computed tokens.
        attending: for each layer, which tokens attend to which.
        shape: shape of the hidden states that enter the first layer.
    """

    tower: TowerReuse
    packing: Packing
    attending: Sequence[Stretches]
    shape: Sequence[int] = ()
    _rotary: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def pack(self, tokens: Tensor) -> Tensor:
        """Rows `[n, ...]` of `tokens` `[P, ...]`, gathered once, since all layers get the same rotary
        tensors."""
        if id(tokens) not in self._rotary:
            self._rotary[id(tokens)] = tokens, self.packing.pack(tokens)
        return self._rotary[id(tokens)][1]


_call: ContextVar[_Call | None] = ContextVar("holitom_vllm_tower_call", default=None)


class TowerReuse:
    """Reuse in one vision tower, for calls inside the context `video` only.

    Attributes:
        kind: the tower's kind.

    Args:
        kind: the tower's kind.
        reuse: settings of reuse.
        layers: the tower's layers, in order.
        attentions: vLLM's `MMEncoderAttention` of each layer.
        deep: indices of the layers whose output is read besides the last one's.
        windowed: indices of the layers that attend within windows.
        vllm_config: the engine's config.

    Raises:
        UnsupportedUsageError: the engine quantises the tower's attention.
    """

    def __init__(
        self,
        kind: Kind,
        reuse: Reuse,
        layers: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        vllm_config: Any,
        deep: Collection[int] = (),
        windowed: Collection[int] = (),
    ) -> None:
        if vllm_config.model_config.multimodal_config.mm_encoder_attn_dtype is not None:
            raise UnsupportedUsageError(
                "reuse in the vision tower attends in the model's own dtype; leave mm_encoder_attn_dtype or "
                "reuse out"
            )
        self.kind, self._reuse = kind, reuse
        self._reads = {len(layers) - 1, *deep}
        self._windowed = [index in windowed for index in range(len(layers))]
        for index, (layer, attention) in enumerate(zip(layers, attentions, strict=True)):
            # Not hooks: vLLM calls `forward` itself of layers that it could compile.
            Wrapped(layer, "forward", partial(self._run, index))
            Wrapped(attention, "forward", partial(self._attend, index, attention))

    @contextmanager
    def video(self, layout: Layout, frames: list[Ints], windows: list[Ints] | None = None) -> Iterator[None]:
        """Run the tower inside the `with` block under a plan for the one video of `layout`.

        Args:
            layout: the video's layout in the tower.
            frames: the tokens of the video's frames, as `Packing.stretches` takes them.
            windows: the tokens of its windows, in a tower that has windows.
        """
        pixels = layout.pixels[0]
        reuse = self._reuse
        if not pixels.is_floating_point():
            reuse = Reuse(reuse.threshold, reuse.reach, LEVELS)
        (plan,) = plan_videos([pixels], self.kind, reuse)
        call = None
        if not plan.whole:
            packing = Packing.of(*layout.tokens([plan]), pixels.device)
            within = packing.stretches(frames)
            parted = packing.stretches(windows) if windows else within
            call = _Call(self, packing, [parted if window else within for window in self._windowed])
        token = _call.set(call)
        try:
            yield
        finally:
            _call.reset(token)

    def whole(self, rows: Tensor) -> Tensor:
        """Values at all tokens, `[P, ...]`, from the `rows` of computed tokens inside a layer."""
        call = self._running()
        return rows if call is None else call.packing.fill(rows.flatten(0, 1))

    def _running(self) -> _Call | None:
        call = _call.get()
        return call if call is not None and call.tower is self else None

    def _run(self, index: int, own: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The wrapper of a layer's forward: it takes rows, and returns the whole grid where that is read."""
        call = self._running()
        if call is None:
            return own(*args, **kwargs)
        hidden, *others = args
        if index == 0:
            call.shape = hidden.shape
        if index == 0 or index - 1 in self._reads:
            rows = call.packing.pack(hidden.flatten(0, 1))
            hidden = rows[None] if self.kind.frames == "stacked" else rows[:, None]
        for name in ("rotary_pos_emb_cos", "rotary_pos_emb_sin"):
            if kwargs.get(name) is not None:
                kwargs[name] = call.pack(kwargs[name])
        output = own(hidden, *others, **kwargs)
        if index not in self._reads:
            return output
        if isinstance(output, tuple):
            return (self.whole(output[0]).view(call.shape), *output[1:])
        return self.whole(output).view(call.shape)

    def _attend(
        self, index: int, attention: Any, own: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The wrapper of an attention's forward: each row attends to its frame or window."""
        call = self._running()
        if call is None:
            return own(*args, **kwargs)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        size = attention.head_size
        query, key, value = (
            given[name].reshape(-1, given[name].shape[2:].numel() // size, size)
            for name in ("query", "key", "value")
        )

        def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            found = F.scaled_dot_product_attention(query, key, value, scale=attention.scale)
            return found.transpose(1, 2)

        return call.attending[index].attend(query, key, value, kernel).view(given["query"].shape)


def reuse_of(
    method: Method,
    config: Any,
    layers: Sequence[Any],
    attentions: Sequence[Any],
    vllm_config: Any,
    deep: Collection[int] = (),
    windowed: Collection[int] = (),
) -> TowerReuse | None:
    """Attach reuse to a tower as `method` asks; None where it does not ask for reuse.

    Args:
        method: the method of the config.
        config: the model's config.
        layers: the tower's layers, as for `TowerReuse`.
        attentions: vLLM's attention of each layer.
        vllm_config: the engine's config.
        deep: indices of the layers whose output is read besides the last one's.
        windowed: indices of the layers that attend within windows.

    Raises:
        UnsupportedModelError: the tower cannot reuse.
        UnsupportedUsageError: the engine quantises the tower's attention.
    """
    reuse = Reuse.of(method.reuse)
    if reuse is None:
        return None
    kind = kind_named(config.vision_config.model_type, type(config).__name__)
    return TowerReuse(kind, reuse, layers, attentions, vllm_config, deep, windowed)


def stacked(reuse: TowerReuse | None, pixels: Tensor, size: int | Sequence[int]) -> Any:
    """The context in which one video runs in a tower that takes frames as a batch.

    Args:
        reuse: the tower's reuse; None: the stock tower runs.
        pixels: `[T, C, H, W]`: the video's frames.
        size: side of a patch, or its height and width, in pixels.
    """
    if reuse is None:
        return nullcontext()
    count, leading = len(pixels), reuse.kind.leading
    places = patches_of(pixels, size)
    tokens = leading + places.shape[1]
    layout = Frames([places], [np.arange(count)], count, leading)
    return reuse.video(layout, [np.arange(count * tokens).reshape(count, tokens)])


def packed(reuse: TowerReuse | None, pixels: Tensor, grid_thw: Sequence[int], visual: Any, size: int) -> Any:
    """The context in which one video runs in a tower that takes all patches in one sequence.

    Args:
        reuse: the tower's reuse; None: the stock tower runs.
        pixels: `[P, C * D * h * w]`: the video's patches.
        grid_thw: number of frames (tubelets), and of rows and columns of patches.
        visual: vLLM's tower.
        size: side of a patch in pixels.
    """
    if reuse is None:
        return nullcontext()
    frames, height, width = grid_thw
    unit = visual.spatial_merge_size**2
    # `C` and `D` in one: channels are told apart where they are three.
    places = pixels.view(frames, height * width // unit, unit, 3, -1, size, size)
    order = np.arange(len(pixels))
    windows: list[Ints] = []
    if reuse.kind.windows:
        *_, index, bounds, _ = visual.get_rope_by_thw(frames, height, width)
        order = (to_host(index)[:, None] * unit + np.arange(unit)).ravel()
        bounds = torch.cat([bounds.new_zeros(1), bounds])
        windows = [to_host(each) for each in stretches(bounds, bounds.device)]
    own = np.arange(len(pixels)).reshape(frames, height * width)
    return reuse.video(Blocks([places], order), [own], windows)
