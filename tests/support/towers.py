"""The towers of the test families: videos whose plans are known, and a slow tower to compare with."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holitom.models import adapter_for
from holitom.tower import Plan, Reuse, ReusedTower, ReuseReport
from support.families import Small

CAN = (
    "llava-onevision",
    "llava-video",
    "llava-next-video",
    "internvl",
    "smolvlm2",
    "videollama3",
    "qwen2-vl",
    "qwen2.5-vl",
    "qwen3-vl",
    "qwen3-vl-moe",
    "qwen3.5",
    "qwen3.5-moe",
    "glm-4.1v",
    "glm-4.5v",
    "glm-4.6v",
    "glm-ocr",
    "qwen2.5-omni",
    "qwen3-omni",
    "hyperclova-x",
    "cosmos3",
)
CANNOT = ("minicpm-v-4.6", "minicpm-v-4.7")


def still(own: Small) -> np.ndarray[Any, Any]:
    """Every frame the same."""
    video = own.video()
    return np.repeat(video[:1], len(video), 0)


def fours(own: Small) -> np.ndarray[Any, Any]:
    """Every four frames the same, which holds for pairs of frames too."""
    video = own.video()
    return np.repeat(video[::4], 4, 0)


def mixed(own: Small) -> np.ndarray[Any, Any]:
    """A still scene in which corners change, at several times and by unequal parts."""
    video = still(own)
    _, height, width, _ = video.shape
    video[2:, : height // 3, : width // 3] = 255 - video[2:, : height // 3, : width // 3]
    video[5, height // 2 :, width // 2 :] = 0
    video[6:, -9:, :9] = 255 - video[6:, -9:, :9]
    return video


class Encoder:
    """A family's encoder, stock or with reuse attached."""

    def __init__(self, own: Small) -> None:
        self.own = own
        self.adapter = adapter_for(own.model)
        self.encode = getattr(self.adapter.trunk, self.adapter.encoder)

    def arguments(self, *videos: Any) -> tuple[dict[str, Any], Tensor]:
        """The encoder's arguments for one row a video, and the ids."""
        inputs = self.own.inputs(*["w1 <video> w2"] * len(videos), videos=list(videos))
        taken = inspect.signature(self.encode).parameters
        return {name: value for name, value in inputs.items() if name in taken}, inputs["input_ids"]

    @torch.no_grad()
    def stock(self, *videos: Any) -> list[Tensor]:
        return features(self.encode(**self.arguments(*videos)[0], return_dict=True))

    @torch.no_grad()
    def reused(
        self, reuse: Reuse, *videos: Any, tower: ReusedTower | None = None
    ) -> tuple[list[Tensor], ReuseReport]:
        arguments, ids = self.arguments(*videos)
        attached = ReusedTower(self.adapter) if tower is None else tower
        try:
            with attached.call(reuse, arguments, ids) as report:
                return features(self.encode(**arguments, return_dict=True)), report
        finally:
            if tower is None:
                attached.detach()

    @torch.no_grad()
    def slow(self, plans: tuple[Plan, ...], *videos: Any) -> list[Tensor]:
        """Every layer computes every token of every frame, over frames into which stand-ins were copied."""
        source = sources(self, plans, *videos)
        kind = ReusedTower(self.adapter)
        kind.detach()
        hooks = []

        def copied(hidden: Tensor) -> Tensor:
            flat = hidden.reshape(-1, hidden.shape[-1])[source]
            return torch.empty_like(hidden).copy_(flat.view(hidden.shape))

        def enter(module: Any, args: Any, kwargs: Any) -> Any:
            return (copied(args[0]), *args[1:]), kwargs

        def leave(module: Any, args: Any, output: Any) -> Any:
            return copied(output)

        for layer in kind.tower.layers:
            hooks.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(layer.register_forward_hook(leave, prepend=True))
        try:
            return self.stock(*videos)
        finally:
            for hook in hooks:
                hook.remove()


def sources(encoder: Encoder, plans: tuple[Plan, ...], *videos: Any) -> Tensor:
    """The token that stands in at each of the tower's, from the plans, place by place."""
    arguments, _ = encoder.arguments(*videos)
    kind = ReusedTower(encoder.adapter)
    kind.detach()
    leading = kind.tower.kind.leading
    packed = kind.tower.kind.frames == "packed"
    found: list[int] = []
    for plan in plans:
        frames, places = plan.computed.shape
        first = len(found)
        each = 4 if packed else 1
        tokens = leading + places * each
        for frame in range(frames):
            moves = bool(plan.computed[frame].any())
            for token in range(tokens):
                own = moves if token < leading else bool(plan.computed[frame, (token - leading) // each])
                found.append(first + (frame if own else int(plan.reference[frame])) * tokens + token)
    source = torch.tensor(found)
    if not kind.tower.kind.windows:
        return source
    # The tower's own reordering, of numbers: where each token of the grid goes.
    module = kind.tower.module
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(
        arguments["video_grid_thw"], module.spatial_merge_size, module.window_size, module.patch_size
    )
    numbers = torch.arange(len(source), dtype=torch.float64)[:, None]
    grid = module.permute_input_for_window_attn(numbers, index, len(source))[:, 0].long()
    return grid.argsort()[source[grid]]


def features(output: Any) -> list[Tensor]:
    """All that an encoder returns to the language model."""
    pooled = output.pooler_output
    found = [pooled] if isinstance(pooled, Tensor) else list(pooled)
    for stream in getattr(output, "deepstack_features", None) or []:
        found += [stream] if isinstance(stream, Tensor) else list(stream)
    return found
