"""Wall clock of a vision tower with reuse as a share of the stock tower's, at SigLIP-so400m's shape.

python tools/tower_seconds.py [--layers 2] [--frames 16] [--rounds 3] [--dtype bfloat16] [VIDEO ...]

Weights are random. The layers of a tower are alike, so `--layers` of its 26 are run; what happens once a
tower (patch embedding, planning, packing) is timed apart and counted once in the figure for 26 layers.
Scenes of random noise are drawn of which blocks of patches change between frames; VIDEO files are
sampled evenly. Stock and reuse take turns, and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from holitom.bench.machine import cores, processor
from holitom.bench.random_weights import fill
from holitom.models import adapter_for
from holitom.tower import Reuse, ReusedTower
from holitom.video import load_video

LAYERS, SIDE, PATCH = 26, 384, 14
BLOCK = 2 * PATCH


def model_of(layers: int, dtype: torch.dtype) -> Any:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": SIDE,
        "patch_size": PATCH,
        "vision_use_head": False,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-1,
        image_token_index=1,
        video_token_index=2,
    )
    model = LlavaOnevisionForConditionalGeneration._from_config(
        config, dtype=dtype, attn_implementation="sdpa"
    )
    fill(model)
    return model.eval()


def scene(frames: int, share: float, seed: int = 0) -> np.ndarray[Any, Any]:
    """A still picture of noise in which each frame redraws `share` of its blocks, more or less by half."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    video = np.repeat(picture[None], frames, 0)
    side = SIDE // BLOCK + 1
    for frame in range(frames):
        count = min(side**2, round(share * side**2 * rng.uniform(0.5, 1.5)))
        for block in rng.choice(side**2, count, replace=False):
            row, column = block // side * BLOCK, block % side * BLOCK
            part = video[frame, row : row + BLOCK, column : column + BLOCK]
            part[...] = rng.integers(0, 256, part.shape)
    return video


def pixels_of(video: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """Resized (bilinear, antialiased) and normalised with SigLIP's mean and std, `[1, F, 3, H, W]`."""
    levels = torch.from_numpy(video).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(levels, (SIDE, SIDE), mode="bilinear", antialias=True)
    return ((resized / 255 - 0.5) / 0.5).to(dtype)[None]


class Clock:
    """Seconds of one call of the tower: in its layers, and besides."""

    def __init__(self, model: Any, tower: ReusedTower, reuse: Reuse | None) -> None:
        self.model, self.tower, self.reuse = model, tower, reuse

    def __call__(self, pixels: torch.Tensor) -> tuple[float, float, Any]:
        layers = self.tower.tower.layers
        marks: list[float] = []
        hooks = [
            layers[0].register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()), prepend=True),
            layers[-1].register_forward_hook(lambda *_: marks.append(time.perf_counter())),
        ]
        vision = self.model.model.vision_tower
        began = time.perf_counter()
        arguments = {"pixel_values_videos": pixels}
        with self.tower.call(self.reuse, arguments) if self.reuse else nullcontext() as report:
            vision(pixels[0], output_hidden_states=[-1])
        total = time.perf_counter() - began
        for hook in hooks:
            hook.remove()
        inside = marks[1] - marks[0]
        return inside, total - inside, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="0: plan only, run no tower")
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    model = model_of(given.layers, dtype)
    tower = ReusedTower(adapter_for(model))
    stock, reused = Clock(model, tower, None), Clock(model, tower, Reuse())
    cases: dict[str, Callable[[], np.ndarray[Any, Any]]] = {
        f"{share:.0%} of each frame changes": lambda share=share: scene(given.frames, share)  # type: ignore[misc]
        for share in (0.0, 0.1, 0.25, 0.5, 1.0)
    }
    cases |= {path: lambda path=path: load_video(path, given.frames).frames for path in given.videos}  # type: ignore[misc]
    print(
        f"SigLIP-so400m's shape, {given.layers} of {LAYERS} layers, {given.frames} frames, {given.dtype}; "
        f"{processor()}, {cores()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"median of {given.rounds} rounds"
    )
    if given.rounds:
        print(f"{'':28} computed  layers  whole tower  stock, s a layer  planning, s")
    else:
        print(f"{'':28} computed  references  planning, s")
    with torch.inference_mode():
        for name, make in cases.items():
            pixels = pixels_of(make(), dtype)
            if not given.rounds:
                with tower.call(Reuse(), {"pixel_values_videos": pixels}) as report:
                    print(f"{name:28} {report.computed_share:8.1%} {report.groups:11} {report.seconds:12.3f}")
                continue
            stock(pixels)
            layers, whole, seconds, planning, computed = [], [], [], [], 1.0
            for _ in range(given.rounds):
                inside, besides, _report = stock(pixels)
                inside_too, besides_too, report = reused(pixels)
                each = LAYERS / given.layers
                layers.append(inside_too / inside)
                whole.append((each * inside_too + besides_too) / (each * inside + besides))
                seconds.append(inside / given.layers)
                planning.append(report.seconds)
                computed = report.computed_share
            print(
                f"{name:28} {computed:8.1%} {statistics.median(layers):7.1%} "
                f"{statistics.median(whole):12.1%} "
                f"{statistics.median(seconds):17.3f} {statistics.median(planning):12.3f}",
                flush=True,
            )
    tower.detach()


if __name__ == "__main__":
    main()
