"""Divide a call of a model's encoder into parts of a few frames, and join their results.

A step is the input of one grid of tokens: a frame, two frames that the tower takes together, an image, or a
crop of an image. Patches attend within their step only, so the result does not depend on the division.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from holitom.ops.host import HOST, host_values, sent


class Parts(Protocol):
    """The arguments of a call of the encoder in parts.

    Attributes:
        steps: number of steps of all videos.
    """

    @property
    def steps(self) -> int: ...

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        """The encoder's arguments, by name, for steps `first` to `last - 1`, counted over all videos."""

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields `FIELDS` of the whole call's output, from the outputs of its parts in order."""


FIELDS = ("pooler_output", "deepstack_features")
"""Fields of an encoder's output that the language model takes; hidden states of the tower are not kept."""


class StackedParts:
    """Videos `pixel_values_videos` `[videos, frames, C, H, W]`, with `separators` tokens after each video."""

    def __init__(self, given: dict[str, Any], separators: int = 0) -> None:
        pixels: Tensor = given["pixel_values_videos"]
        self._given, self._videos, self._separators = given, len(pixels), separators
        self._frames = pixels.flatten(0, 1)

    @property
    def steps(self) -> int:
        return len(self._frames)

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        return {**self._given, "pixel_values_videos": self._frames[None, first:last]}

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        came = [output["pooler_output"] for output in outputs]
        if not isinstance(came[0], Tensor):  # LLaVA-NeXT-Video in transformers 5.19 has a list of videos
            return {"pooler_output": list(torch.cat([video for (video,) in came]).chunk(self._videos))}
        width = came[0].shape[-1]
        if not self._separators:
            return {"pooler_output": torch.cat(came, dim=1).view(self._videos, -1, width)}
        tokens = torch.cat([part[:, : -self._separators] for part in came], dim=1)
        behind = came[0][:, -self._separators :].expand(self._videos, -1, -1)
        return {"pooler_output": torch.cat([tokens.view(self._videos, -1, width), behind], dim=1)}


class PackedParts:
    """Videos one after another in a sequence of patches, with `video_grid_thw` `[videos, 3]`.

    Args:
        given: arguments of the encoder, by name.
        tokens: number of tokens of each video.
    """

    def __init__(self, given: dict[str, Any], tokens: list[int]) -> None:
        self._given, self._tokens = given, tokens
        (grids,) = host_values(given["video_grid_thw"])
        self._grids: list[list[int]] = grids.tolist()
        self._first = [0, *accumulate(frames for frames, _, _ in self._grids)]
        patches = [rows * columns for frames, rows, columns in self._grids for _ in range(frames)]
        self._patches = [0, *accumulate(patches)]

    @property
    def steps(self) -> int:
        return self._first[-1]

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        given = self._given
        shown = [
            (video, min(end, last) - max(begin, first))
            for video, (begin, end) in enumerate(zip(self._first, self._first[1:], strict=False))
            if begin < last and end > first
        ]
        grids = torch.tensor([[frames, *self._grids[video][1:]] for video, frames in shown], device=HOST)
        part = {
            **given,
            "pixel_values_videos": given["pixel_values_videos"][self._patches[first] : self._patches[last]],
            "video_grid_thw": sent(grids.to(given["video_grid_thw"].dtype), given["video_grid_thw"].device),
        }
        if given.get("video_merge_sizes") is not None:
            begin, end = shown[0][0], shown[-1][0] + 1
            part["video_merge_sizes"] = given["video_merge_sizes"][begin:end]
        return part

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "pooler_output": self._split([output["pooler_output"] for output in outputs])
        }
        if outputs[0].get("deepstack_features") is not None:
            layers = zip(*(output["deepstack_features"] for output in outputs), strict=True)
            found["deepstack_features"] = [self._split(list(layer)) for layer in layers]
        return found

    def _split(self, parts: list[Any]) -> tuple[Tensor, ...]:
        """The tokens of each whole video, from those of each part's videos."""
        return torch.split(torch.cat([video for part in parts for video in part]), self._tokens)


class CropParts:
    """Crops of MiniCPM-V's frames: patches side by side in `pixel_values_videos` `[1, C, h, patches * h]`."""

    def __init__(self, given: dict[str, Any], patch: int) -> None:
        (sizes,) = host_values(given["target_sizes_videos"])
        self._given = given
        self._pixels = [0, *accumulate(patch * patches for patches in sizes.prod(1).tolist())]

    @property
    def steps(self) -> int:
        return len(self._pixels) - 1

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        given = self._given
        return {
            **given,
            "pixel_values_videos": given["pixel_values_videos"][
                ..., self._pixels[first] : self._pixels[last]
            ],
            "target_sizes_videos": given["target_sizes_videos"][first:last],
        }

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"pooler_output": [crop for output in outputs for crop in output["pooler_output"]]}


class ImageParts:
    """Images `pixel_values` `[images, C, H, W]`, frames among them."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    @property
    def steps(self) -> int:
        return len(self._given["pixel_values"])

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        return {**self._given, "pixel_values": self._given["pixel_values"][first:last]}

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"pooler_output": torch.cat([output["pooler_output"] for output in outputs])}


class RowsOfImages:
    """Images `pixel_values` `[rows, images, C, H, W]`, where rows may have different numbers of images.

    Args:
        given: arguments of the encoder, by name.
        shown: `[rows, images]` bool: False where an entry is padding, which the model drops.
    """

    def __init__(self, given: dict[str, Any], shown: Tensor) -> None:
        (own,) = host_values(shown)
        self._counts = own.sum(1).tolist()
        at = sent(own.flatten().nonzero()[:, 0], shown.device)
        names = ("pixel_values", "pixel_attention_mask")
        self._given = given
        self._images = {name: given[name].flatten(0, 1)[at] for name in names if given.get(name) is not None}

    @property
    def steps(self) -> int:
        return sum(self._counts)

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        return {**self._given, **{name: all_[None, first:last] for name, all_ in self._images.items()}}

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = torch.cat([row for output in outputs for row in output["pooler_output"]])
        each = len(tokens) // self.steps
        return {"pooler_output": list(torch.split(tokens, [each * count for count in self._counts]))}
