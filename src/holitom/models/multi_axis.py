"""What the families with multi-axis rotary positions share: Qwen's and GLM's vision language models.

Their towers pack the patches of all videos into one sequence, blocks of 2 x 2 neighbours together, and attend
within stretches of it that `cu_seqlens` delimits: a temporal patch row (two frames), or a window in one. A
block becomes one token. Video tokens stand in the order of the grid and keep their positions in time, height
and width; whatever stands between them (time stamps) is text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.errors import UnsupportedModelError, UnsupportedUsageError
from holitom.models.base import Adapter, require_modules
from holitom.ops.attention import frames_per_chunk, received_attention
from holitom.ops.host import host_values, sent
from holitom.tokens import VideoTokens


class MultiAxis(Adapter):
    """Base of the adapters below it, each of which says what differs.

    Attributes:
        name: of the family, for messages.
        rotate_vision: its tower's `apply_rotary_pos_emb_vision`.
        projections: names of what makes the queries and keys of its tower's attention.
        parts: by the name of its config, the `model_type` of a part that is known, where the class takes any.
        tower: the vision tower.
    """

    keeps_positions: ClassVar[bool] = True
    name: ClassVar[str]
    rotate_vision: ClassVar[Callable[..., tuple[Tensor, Tensor]]]
    projections: ClassVar[tuple[str, ...]] = ("qkv",)
    parts: ClassVar[dict[str, str]] = {}

    def __init__(self, model: nn.Module, tower: str = "visual") -> None:
        """`tower`: what `trunk` calls its vision tower."""
        config: Any = model.config
        for part, known in self.parts.items():
            kind = getattr(config, part).model_type
            if kind != known:
                raise UnsupportedModelError(
                    f"{self.name} with a {part} of type {kind!r}; supported: {known!r}"
                )
        if "sliding_attention" in (getattr(config.text_config, "layer_types", None) or ()):
            raise UnsupportedModelError(
                f"{self.name} with sliding-window layers; supported: use_sliding_window=False"
            )
        trunk: Any = model.model
        if not hasattr(trunk, "language_model"):
            raise UnsupportedModelError(
                f"{self.name} as this version of transformers lays it out; supported: as 5.23 does"
            )
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        self.tower: Any = getattr(trunk, tower)
        self.vision_attention = self.tower.blocks[-1].attn
        require_modules(self.vision_attention, self.projections, f"{self.name}'s vision tower")
        self._config = config
        self._merge = int(config.vision_config.spatial_merge_size)
        self.frames_per_step = int(config.vision_config.temporal_patch_size)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        held: Tensor = input_ids == self._config.video_token_id
        return held

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        grid_thw, pixels = arguments.get("video_grid_thw"), arguments.get("pixel_values_videos")
        if grid_thw is None:
            return
        ids, grid_thw = host_values(input_ids, grid_thw)
        patches = int(grid_thw.prod(-1).sum())
        if pixels is not None and len(pixels) != patches:
            raise UnsupportedUsageError(
                f"pixel_values_videos holds {len(pixels)} patches, and video_grid_thw says {patches}; pass "
                "both as one call of the processor returns them"
            )
        self.check_placeholders(ids, (grid_thw.prod(-1) // self._merge**2).tolist())

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        (grid_thw,) = host_values(arguments["video_grid_thw"])
        return [height * width for frames, height, width in grid_thw.tolist() for _ in range(frames)]

    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        attention: Any = self.vision_attention
        hidden: Tensor = arguments["hidden_states"]
        cos, sin = arguments["position_embeddings"]

        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            return type(self).rotate_vision(*self._projected(hidden[rows]), cos[rows], sin[rows])

        return packed_importance(hidden, arguments["cu_seqlens"], attention, read, lengths)

    def keys(self, arguments: dict[str, Any]) -> Tensor:
        return self._projected(arguments["hidden_states"])[1].mean(1)

    def _projected(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys `[n, heads, d]` of the vision attention for `hidden` `[n, D]`, before rotation."""
        attention: Any = self.vision_attention
        query, key, _ = attention.qkv(hidden).view(len(hidden), 3, attention.num_heads, -1).unbind(1)
        return query, key

    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        (grid_thw,) = host_values(arguments["video_grid_thw"])
        grids = [(t, h // self._merge, w // self._merge) for t, h, w in grid_thw.tolist()]
        sizes = [prod(grid) for grid in grids]
        came = [len(features) for features in encoded.pooler_output]
        if came != sizes:
            raise UnsupportedUsageError(
                f"the videos came out as {came} tokens, and video_grid_thw says {sizes}; pass "
                "pixel_values_videos and video_grid_thw of one call of the processor"
            )
        scores, own_keys = (
            [None] * len(grids) if patches is None else torch.split(self._pooled(patches, grid_thw), sizes)
            for patches in (importance, keys)
        )
        found = []
        for index, (frames, rows, columns) in enumerate(grids):
            shape = (frames, rows * columns)
            features: Tensor = encoded.pooler_output[index].view(*shape, -1)
            score, key = scores[index], own_keys[index]
            found.append(
                VideoTokens(
                    features=features,
                    importance=self.no_importance(features) if score is None else score.view(shape),
                    grid=(rows, columns),
                    keys=None if key is None else key.view(*shape, -1),
                    streams=self._streams_of(encoded, index, shape),
                )
            )
        return found

    def _pooled(self, patches: Tensor, grid_thw: Tensor) -> Tensor:
        """The mean over each block of patches that becomes one token; blocks in the grid's order."""
        return patches.reshape(-1, self._merge**2, *patches.shape[1:]).mean(1)

    def _streams_of(self, encoded: Any, index: int, shape: tuple[int, int]) -> Tensor | None:
        """`[T, N, E]` of video `index`."""
        return None

    def encoding(self, frames: int, width: int, height: int) -> dict[str, Any]:
        processor, vision = self.video_processor(), self._config.vision_config
        video = torch.empty(frames, 3, height, width, dtype=torch.uint8, device="meta")
        inputs = processor(
            videos=[video],
            do_sample_frames=False,
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            return_tensors="pt",
        )
        return {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}

    def part(self, arguments: dict[str, Any], frames: int) -> tuple[dict[str, Any], int]:
        """A temporal patch row."""
        ((rows, height, width),) = arguments["video_grid_thw"].tolist()
        one = torch.tensor([[1, height, width]])
        pixels: Tensor = arguments["pixel_values_videos"]
        return {"pixel_values_videos": pixels[: height * width], "video_grid_thw": one}, rows

    def encode(self, arguments: dict[str, Any]) -> Any:
        with following(self.tower.children()):
            return super().encode(arguments)

    def video_processor(self) -> Any:
        """The family's own video processor, as its published checkpoints set it."""
        raise NotImplementedError


@contextmanager
def following(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Grids stay on the host, where their values are asked; meanwhile what is made of them follows the pixels
    onto the meta device as it enters `modules`."""

    def follow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(each.to("meta") if isinstance(each, Tensor) else each for each in args)

    hooks = [module.register_forward_pre_hook(follow) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def packed_importance(
    hidden: Tensor,
    cu_seqlens: Tensor,
    attention: Any,
    read: Callable[[Tensor], tuple[Tensor, Tensor]],
    lengths: Sequence[int] = (),
) -> Tensor:
    """Attention that each of a packed tower's patches receives within its stretch, `[P]` float32.

    Args:
        hidden: `[P, D]`: the attention's input.
        cu_seqlens: `[S + 1]`: where stretches begin and end.
        attention: with `num_heads` and `scaling`.
        read: queries and keys `[n, heads, d]`, rotated where the tower rotates them, of the patches at `[n]`.
        lengths: patches of each frame or crop before the tower's first layer, as the host knows them. Where
            there are as many as stretches, they are those, in proportion to the patches that are left
            in this layer; else (windows) `cu_seqlens` is read from the device.
    """
    received = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    if lengths and len(lengths) == len(cu_seqlens) - 1:
        share = Fraction(len(hidden), sum(lengths))
        cu_seqlens = torch.tensor([0, *accumulate(int(length * share) for length in lengths)])
    for patches in stretches(cu_seqlens, hidden.device):
        for at in torch.split(patches, frames_per_chunk(attention.num_heads, patches.shape[1])):
            # F stretches of P patches
            query, key = (x.view(*at.shape, *x.shape[1:]).transpose(1, 2) for x in read(at.flatten()))
            received[at] = received_attention(query, key, attention.scaling)
    return received


def stretches(cu_seqlens: Tensor, device: torch.device) -> list[Tensor]:
    """The stretches of patches that attend to each other, those of one length together.

    Args:
        cu_seqlens: `[S + 1]`: where they begin and end.
        device: of the result.

    Returns:
        For each length `P` an index `[F, P]` of the patches in the `F` stretches that have it; as many as
        there are lengths, so their number does not grow with the video.
    """
    (bounds,) = host_values(cu_seqlens)
    starts, lengths = bounds[:-1], bounds.diff()
    return [
        sent(starts[lengths == length][:, None] + torch.arange(length), device)
        for length in sorted(set(lengths.tolist()) - {0})
    ]
