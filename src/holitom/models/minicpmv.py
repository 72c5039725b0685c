"""MiniCPM-V 4.6 and 4.7: frames cut into slices, a packed tower that merges 2 x 2 patches midway, Qwen3.5.

A frame is a crop of the whole picture and, where it is large, slices of it in higher resolution; each crop is
encoded apart and has placeholders of its own. What belongs to which video stands in the prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import MiniCPMV4_6VideoProcessor
from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb

from holitom.errors import UnsupportedModelError, UnsupportedUsageError
from holitom.models.marked_frames import runs_of
from holitom.models.multi_axis import packed_importance
from holitom.models.one_axis import OneAxis
from holitom.models.qwen3_5 import gated_heads
from holitom.ops.host import host_values, sent
from holitom.tokens import VideoTokens

Size = tuple[int, int]


@dataclass(frozen=True)
class Crops(VideoTokens):
    """Every crop that was encoded, `[1, tokens, D]`.

    Attributes:
        sizes: rows and columns of each crop's tokens.
    """

    sizes: tuple[Size, ...] = ()


class MiniCPMV46(OneAxis):
    """Adapter for `transformers.MiniCPMV4_6ForConditionalGeneration`."""

    family: ClassVar[str] = "MiniCPM-V 4.6"
    towers: ClassVar[tuple[str, ...]] = ("minicpmv4_6_vision",)
    decoders: ClassVar[tuple[str, ...]] = ("qwen3_5_text",)
    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention", "linear_attention"})
    rotate = staticmethod(apply_rotary_pos_emb)

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        trunk: Any = model.model
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        layers = trunk.vision_tower.encoder.layers
        if config.vision_config.insert_layer_id >= len(layers) - 1:
            raise UnsupportedModelError(
                f"{self.family} whose tower merges patches behind its last layer "
                f"({config.vision_config.insert_layer_id} of {len(layers)}); supported: before it"
            )
        self.vision_attention = self._readable(layers[-1].self_attn)
        self._config = config

    def decoder_heads(self, attention: Any, which: str, hidden: Tensor) -> Tensor:
        return gated_heads(attention, which, hidden)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        held: Tensor = input_ids == self._config.video_token_id
        return held

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        sizes: Tensor | None = arguments.get("target_sizes_videos")
        if sizes is None:
            return
        ids, sizes = host_values(input_ids, sizes)
        came = arguments["pixel_values_videos"].shape[-1] // self._config.vision_config.patch_size
        if came != int(sizes.prod(1).sum()):
            raise UnsupportedUsageError(
                f"pixel_values_videos holds {came} patches, and target_sizes_videos says "
                f"{int(sizes.prod(1).sum())}; pass both as one call of the processor returns them"
            )
        self.check_placeholders(ids, list(map(prod, self._sizes(arguments))))

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        (sizes,) = host_values(arguments["target_sizes_videos"])
        lengths: list[int] = sizes.prod(1).tolist()
        return lengths

    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        hidden: Tensor = arguments["hidden_states"][0]

        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            query, key = (self._heads(name, hidden[rows][None])[0] for name in ("q", "k"))
            return query, key

        return packed_importance(hidden, arguments["cu_seqlens"], self.vision_attention, read, lengths)

    def keys(self, arguments: dict[str, Any]) -> Tensor:
        return self._heads("k", arguments["hidden_states"])[0].mean(dim=1)

    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        sizes = self._sizes(arguments)
        came = [len(features) for features in encoded.pooler_output]
        if came != list(map(prod, sizes)):
            raise UnsupportedUsageError(
                f"the crops came out as {came} tokens, and target_sizes_videos says {sizes}; pass what one "
                "call of the processor returned"
            )
        features = torch.cat(list(encoded.pooler_output))[None]
        return [
            Crops(
                features=features,
                importance=self.no_importance(features)
                if importance is None
                else self._pooled(importance, sizes)[None],
                grid=(1, features.shape[1]),
                keys=None if keys is None else self._pooled(keys, sizes)[None],
                sizes=sizes,
            )
        ]

    def _sizes(self, arguments: dict[str, Any]) -> tuple[Size, ...]:
        """Rows and columns of each crop's tokens."""
        mode = arguments.get("downsample_mode") or self._config.downsample_mode
        rows, columns = self._block
        if mode != "4x":  # the tower merges 2 x 2 itself
            rows, columns = 2 * rows, 2 * columns
        (sizes,) = host_values(arguments["target_sizes_videos"])
        return tuple((h // rows, w // columns) for h, w in sizes.tolist())

    @property
    def _block(self) -> Size:
        """Patches of the last layer, up and across, that become one token."""
        rows, columns = self._config.merge_kernel_size
        times = self._config.merger_times
        return rows**times, columns**times

    def _pooled(self, patches: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """The mean over each token's block of patches, `[P, ...]` to `[tokens, ...]`."""
        up, across = self._block
        shape = torch.tensor(sizes)
        counts = shape.prod(1)
        first = counts.cumsum(0) - counts
        crop = torch.arange(len(sizes)).repeat_interleave(counts)
        within, wide = torch.arange(int(counts.sum())) - first[crop], shape[crop, 1]
        corner = first[crop] * up * across + (within // wide * up * wide + within % wide) * across
        down = torch.arange(up)[:, None] * wide[:, None, None] * across
        block = (corner[:, None, None] + down + torch.arange(across)).flatten(1)
        return patches[sent(block, patches.device)].mean(dim=1)

    def locate(self, encodings: list[VideoTokens], given: dict[str, Any]) -> list[VideoTokens]:
        (crops,) = encodings
        assert isinstance(crops, Crops)
        (ids,) = host_values(given["input_ids"])
        runs = runs_of(self.placeholders(ids))
        # `generate` repeats rows (beams, returned sequences) but encodes once.
        copies, rest = divmod(sum(map(len, runs)), len(crops.sizes))
        if rest or not copies:
            raise UnsupportedUsageError(
                f"the rows hold {[len(row) for row in runs]} crops, but {len(crops.sizes)} were encoded; "
                "pass the ids that the processor made for them (with a cache: for the new part of the prompt)"
            )
        found: list[VideoTokens] = []
        crop = token = 0
        for row in range(0, len(runs), copies):
            for frames in _videos(ids[row].tolist(), runs[row]):
                shapes = [crops.sizes[crop + start : crop + start + count] for start, count in frames]
                found.append(_video(crops, token, shapes))
                token += sum(prod(size) for shape in shapes for size in shape)
            crop += len(runs[row])
        return found

    def encoding(self, frames: int, width: int, height: int) -> dict[str, Any]:
        video = torch.empty(frames, 3, height, width, dtype=torch.uint8, device="meta")
        processor = MiniCPMV4_6VideoProcessor(
            patch_size=self._config.vision_config.patch_size, downsample_mode=self._config.downsample_mode
        )
        inputs = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
        return {name: inputs[name] for name in ("pixel_values_videos", "target_sizes_videos")}

    def part(self, arguments: dict[str, Any], frames: int) -> tuple[dict[str, Any], int]:
        """A frame."""
        sizes = arguments["target_sizes_videos"]
        one = sizes[: len(sizes) // frames]
        patch = self._config.vision_config.patch_size
        pixels = arguments["pixel_values_videos"][..., : int(one.prod(1).sum()) * patch]
        return {"pixel_values_videos": pixels, "target_sizes_videos": one}, frames

    def encode(self, arguments: dict[str, Any]) -> Any:
        tower: Any = self.trunk.vision_tower
        with _bounds_on_the_host(tower, arguments["target_sizes_videos"]):
            return super().encode(arguments)


class MiniCPMV47(MiniCPMV46):
    """Adapter for `transformers.MiniCPMV4_7ForConditionalGeneration`, which numbers tokens on three axes."""

    family: ClassVar[str] = "MiniCPM-V 4.7"
    towers: ClassVar[tuple[str, ...]] = ("minicpmv4_7_vision",)
    keeps_positions: ClassVar[bool] = True


def _videos(ids: list[int], runs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The videos of one row: for each of their frames, its first crop and how many it has.

    A row's first run of placeholders opens a frame, so the token before it says what opens one; behind
    another token comes a slice. Frames of one video stand side by side: nothing but a closing and an
    opening token is between them.
    """
    videos: list[list[tuple[int, int]]] = []
    ended = -1
    for crop, (begin, length) in enumerate(runs):
        opens = ids[begin - 1] == ids[runs[0][0] - 1]
        if opens and (not videos or begin - ended != 2):
            videos.append([])
        if opens:
            videos[-1].append((crop, 1))
        else:
            start, count = videos[-1][-1]
            videos[-1][-1] = (start, count + 1)
        ended = begin + length
    return videos


def _video(crops: Crops, token: int, frames: list[tuple[Size, ...]]) -> VideoTokens:
    """One video's tokens, from `token` on.

    A frame's importance is shared among its crops by their tokens: each has attended within itself alone.
    """
    if any(sizes != frames[0] for sizes in frames):
        raise UnsupportedUsageError(
            f"a video's frames are cut differently ({sorted(map(str, set(map(tuple, frames))))} tokens); use "
            "stack_frames=1, and text or image ids (use_image_id) between two videos"
        )
    counts = [prod(size) for size in frames[0]]
    shape = (len(frames), sum(counts))
    at = slice(token, token + prod(shape))
    importance = crops.importance[0, at].view(shape)
    if len(counts) > 1:
        share = torch.tensor(counts, dtype=importance.dtype) / shape[1]
        importance = importance * sent(share.repeat_interleave(torch.tensor(counts)), importance.device)
    return VideoTokens(
        features=crops.features[0, at].view(*shape, -1),
        importance=importance,
        grid=frames[0][0] if len(counts) == 1 else (1, shape[1]),
        keys=None if crops.keys is None else crops.keys[0, at].view(*shape, -1),
    )


@contextmanager
def _bounds_on_the_host(tower: Any, target_sizes: Tensor) -> Iterator[None]:
    """On the meta device: attention gets the bounds of what it may see from the host, which asks for them."""

    def bounds(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        patches = kwargs["hidden_states"].shape[1]
        stretches = len(kwargs["cu_seqlens"]) - 1
        areas = target_sizes.prod(1)
        # Crops, of which the tower keeps a part from its merger on, or windows of one size.
        lengths = areas * patches // int(areas.sum())
        if stretches != len(areas):
            lengths = torch.full((stretches,), patches // stretches)
        at = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        return args, {**kwargs, "cu_seqlens": at}

    attentions = [layer.self_attn for layer in tower.encoder.layers] + [tower.vit_merger.self_attn]
    hooks = [m.register_forward_pre_hook(bounds, with_kwargs=True, prepend=True) for m in attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
