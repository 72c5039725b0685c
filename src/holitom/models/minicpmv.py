"""MiniCPM-V 4.6 and 4.7: frames cut into slices, a packed tower that merges 2 x 2 patches midway, Qwen3.5.

A frame is a crop of the whole picture and, where the picture is large, further crops (slices) of it in higher
resolution. Each crop is encoded apart and has placeholders of its own. Only the prompt tells which crops
belong to which video.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb

from holitom.errors import UnsupportedModelError, UnsupportedUsageError
from holitom.models.marked_frames import runs_of, times_repeated
from holitom.models.packed import PackedTower
from holitom.models.parts import CropParts, Parts
from holitom.models.qwen3_5 import gated_heads
from holitom.models.values import EncodedImages, Read, of_tokens
from holitom.ops.host import HOST, host_values, sent
from holitom.tokens import VideoTokens

Size = tuple[int, int]


class MiniCPMV46(PackedTower):
    """Adapter for `transformers.MiniCPMV4_6ForConditionalGeneration`."""

    family: ClassVar[str] = "MiniCPM-V 4.6"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("minicpmv4_6_vision",),
        "text_config": ("qwen3_5_text",),
    }
    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention", "linear_attention"})
    places: ClassVar[tuple[str, str, str]] = ("vision_tower", "encoder.layers", "self_attn")
    projections: ClassVar[dict[str, str]] = {"q": "q_proj", "k": "k_proj"}
    vision_arguments: ClassVar[tuple[str, ...]] = ("hidden_states", "cu_seqlens")
    encoder_arguments: ClassVar[tuple[str, ...]] = ("target_sizes_videos",)
    keeps_positions: ClassVar[bool] = False
    rotate = staticmethod(apply_rotary_pos_emb)
    rotate_vision = None
    early = False  # the tower merges patches between two of its layers

    def _check_config(self) -> None:
        super()._check_config()
        vision = self.config.vision_config
        if vision.insert_layer_id >= vision.num_hidden_layers - 1:
            raise UnsupportedModelError(
                f"{self.family} whose tower merges patches behind its last layer "
                f"({vision.insert_layer_id} of {vision.num_hidden_layers}); supported: before it"
            )

    def decoder_heads(self, attention: Any, which: str, hidden: Tensor) -> Tensor:
        return gated_heads(attention, which, hidden)

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        sizes: Tensor | None = arguments.get("target_sizes_videos")
        if sizes is None:
            return
        ids, sizes = host_values(input_ids, sizes)
        came = arguments["pixel_values_videos"].shape[-1] // self.config.vision_config.patch_size
        if came != int(sizes.prod(1).sum()):
            raise UnsupportedUsageError(
                f"pixel_values_videos holds {came} patches, but target_sizes_videos says "
                f"{int(sizes.prod(1).sum())}; pass both as one call of the processor returns them"
            )
        self.check_placeholders(ids, list(map(prod, self._sizes(arguments))))

    def in_parts(self, arguments: dict[str, Any]) -> Parts | None:
        return CropParts(arguments, self.config.vision_config.patch_size)

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        (sizes,) = host_values(arguments["target_sizes_videos"])
        lengths: list[int] = sizes.prod(1).tolist()
        return lengths

    def videos(self, encoded: Any, arguments: dict[str, Any], read: Read) -> list[Any]:
        """Collect all crops as one `EncodedImages`; `locate` makes videos of them."""
        sizes = self._sizes(arguments)
        came = [len(features) for features in encoded.pooler_output]
        if came != list(map(prod, sizes)):
            raise UnsupportedUsageError(
                f"the crops came out as {came} tokens, but target_sizes_videos says {sizes}; pass what one "
                "call of the processor returned"
            )
        features = torch.cat(list(encoded.pooler_output))
        (own,) = of_tokens(read, [features], lambda patches: [self._blocks(patches, sizes)])
        return [EncodedImages(features, sizes=sizes, timed=self.keeps_positions, **own)]

    def _sizes(self, arguments: dict[str, Any]) -> tuple[Size, ...]:
        """Rows and columns of each crop's tokens."""
        mode = arguments.get("downsample_mode") or self.config.downsample_mode
        rows, columns = self._block
        if mode != "4x":  # the tower merges 2 x 2 itself
            rows, columns = 2 * rows, 2 * columns
        (sizes,) = host_values(arguments["target_sizes_videos"])
        return tuple((h // rows, w // columns) for h, w in sizes.tolist())

    @property
    def _block(self) -> Size:
        """Rows and columns of the block of the last layer's patches that becomes one token."""
        rows, columns = self.config.merge_kernel_size
        times = self.config.merger_times
        return rows**times, columns**times

    def _blocks(self, patches: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """Average each token's block of patches, `[P, ...]` to `[tokens, ...]`.

        A crop's patches are row-major. Token 5 of a crop of 2 x 3 tokens, of blocks of 2 x 2 patches, is at
        row 1, column 2, so its block begins at patch 1 * 2 * 6 + 2 * 2 = 16 and also has 17, 22 and 23.
        """
        up, across = self._block
        shape = torch.tensor(sizes, device=HOST)
        counts = shape.prod(1)
        first = counts.cumsum(0) - counts
        crop = torch.arange(len(sizes), device=HOST).repeat_interleave(counts)
        within = torch.arange(int(counts.sum()), device=HOST) - first[crop]
        wide = shape[crop, 1]
        corner = first[crop] * up * across + (within // wide * up * wide + within % wide) * across
        down = torch.arange(up, device=HOST)[:, None] * wide[:, None, None] * across
        block = (corner[:, None, None] + down + torch.arange(across, device=HOST)).flatten(1)
        return patches[sent(block, patches.device)].mean(dim=1)

    def located_by(self, given: dict[str, Any]) -> list[Tensor]:
        return host_values(given["input_ids"])

    def locate(self, encodings: list[Any], read: list[Tensor]) -> list[VideoTokens]:
        (crops,) = encodings
        (ids,) = read
        runs = runs_of(self.placeholders(ids))
        copies = times_repeated(sum(map(len, runs)), len(crops.sizes), "crops")
        found: list[VideoTokens] = []
        crop = token = 0
        for row in range(0, len(runs), copies):
            for frames in _videos(ids[row].tolist(), runs[row]):
                shapes = [crops.sizes[crop + start : crop + start + count] for start, count in frames]
                found.append(_video(crops, token, shapes))
                token += sum(prod(size) for shape in shapes for size in shape)
            crop += len(runs[row])
        return found


class MiniCPMV47(MiniCPMV46):
    """Adapter for `transformers.MiniCPMV4_7ForConditionalGeneration`, which numbers tokens on three axes."""

    family: ClassVar[str] = "MiniCPM-V 4.7"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision_config": ("minicpmv4_7_vision",),
        "text_config": ("qwen3_5_text",),
    }
    keeps_positions: ClassVar[bool] = True


def _videos(ids: list[int], runs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Find the videos of one row: for each frame, its first crop and its number of crops.

    A row's first run of placeholders is a frame's first crop, and so is every run behind the same token id;
    a run behind another id is a slice. Between two frames of one video there are two tokens, a closing and
    an opening one.
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


def _video(crops: EncodedImages, token: int, frames: list[tuple[Size, ...]]) -> VideoTokens:
    """Select one video's tokens, from index `token` on.

    Each crop attends to itself alone, so its importance sums to one. It is scaled by the crop's share of the
    frame's tokens, so that the frame's importance sums to one.
    """
    if any(sizes != frames[0] for sizes in frames):
        raise UnsupportedUsageError(
            f"a video's frames are cut differently ({sorted(map(str, set(map(tuple, frames))))} tokens); use "
            "stack_frames=1, and text or image ids (use_image_id) between two videos"
        )
    counts = [prod(size) for size in frames[0]]
    each = sum(counts)
    at = token + torch.arange(len(frames) * each, device=HOST)
    grid = frames[0][0] if len(counts) == 1 else (1, each)
    video = crops.frames(at, grid, len(frames))
    if len(counts) == 1:
        return video
    share = torch.tensor(counts, dtype=video.importance.dtype, device=HOST) / each
    share = sent(share.repeat_interleave(torch.tensor(counts, device=HOST)), video.importance.device)
    return replace(video, importance=video.importance * share)
