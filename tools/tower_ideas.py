"""What ideas for a moving camera save in the bundled model's tower, and what frames by change show.

python tools/tower_ideas.py [--videos 20] [--frames 32] [VIDEO ...]

Prints shares of the places (a) that differ from a reference frame, by pixels (reuse as it is) and by the
hidden states behind layer 1 or 2, at the same place and, from one frame to the next, at any place at most two
away; and (d) of the rows of the MLPs where each block of 2 x 2 places whose hidden states are alike is one
row. Without VIDEO files: held-out development videos of MovingDigits-QA before each camera, and (c) in how
many of them the shape that flashes is in frames that are evenly spread, and in those chosen by change. With
files: (c) how near the tokens of 64 frames are to those of 16 of them, chosen in either way.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.ask import load_model
from holitom.bench import moving_digits as md
from holitom.bench.moving_camera import CAMERAS, camera, frames
from holitom.bundled import checkpoint
from holitom.tower.framed import patches_of
from holitom.tower.pixels import cells, changed
from holitom.tower.plan import plan
from holitom.video import load_video
from holitom.video.change import chosen_of
from holitom.video.sampling import spread

FIRST, REACH, NEAR = 100000, 8, 2
CHOSEN = ((16, 8), (64, 16))
"""Numbers of frames of a video, and of those that are chosen."""


def shares(model: Any, processor: Any, video: np.ndarray[Any, Any]) -> dict[str, float]:
    """Shares in 0..1 by idea."""
    prepared = processor.video_processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    pixels = prepared["pixel_values_videos"][0].to(model.dtype)
    tower = model.model.vision_tower
    size = tower.config.patch_size
    means = cells(patches_of(pixels, size), tuple(processor.video_processor.image_std))
    found = {"reuse, by pixels": share(changed(means, 16, REACH))}
    states = tower(pixels, output_hidden_states=True).hidden_states
    side = pixels.shape[-1] // size
    for layer in (1, 2):
        unit = F.normalize(states[layer].float(), dim=-1)
        for least in (0.97, 0.9):
            found[f"(a) layer {layer}, cosine {least}"] = share(apart(unit, least))
        moved = nearest(unit.unflatten(1, (side, side)))
        found[f"(a) layer {layer}, moved"] = 1 - (moved > 0.97).float().mean().item() * (1 - 1 / REACH)
    for least in (0.9, 0.8):
        rows = [1 - 0.75 * alike(state, side, least) for state in states[:-1]]
        found[f"(d) MLP rows, cosine {least}"] = float(np.mean(rows))
    return found


def share(masks: Tensor) -> float:
    return float(plan(masks.cpu().numpy()).computed.mean())


def apart(unit: Tensor, least: float) -> Tensor:
    """As `changed`: which places of unit hidden states `[T, S, D]` have a cosine below `least`."""
    found = torch.zeros(REACH - 1, *unit.shape[:2], dtype=torch.bool)
    for k in range(1, min(REACH, len(unit))):
        found[k - 1, :-k] = (unit[k:] * unit[:-k]).sum(-1) < least
    return found


def nearest(unit: Tensor) -> Tensor:
    """Largest cosine of each place of unit hidden states `[T, h, w, D]` with the frame before's near it."""
    height, width = unit.shape[1:3]
    before = F.pad(unit[:-1].permute(0, 3, 1, 2), (NEAR,) * 4)
    now = unit[1:].permute(0, 3, 1, 2)
    steps = [(y, x) for y in range(2 * NEAR + 1) for x in range(2 * NEAR + 1)]
    each = [(now * before[:, :, y : y + height, x : x + width]).sum(1) for y, x in steps]
    return torch.stack(each).amax(0)


def alike(state: Tensor, side: int, least: float) -> float:
    """Share of the blocks of 2 x 2 places of `[T, S, D]` whose cosines with their mean are above `least`."""
    blocks = state.float().unflatten(1, (side // 2, 2, side // 2, 2)).transpose(2, 3).flatten(3, 4)
    low = F.cosine_similarity(blocks, blocks.mean(3, keepdim=True), dim=-1).amin(3)
    return (low > least).float().mean().item()


def flashes(name: str, videos: int, length: int, count: int) -> tuple[float, float]:
    """Shares of the videos whose flash is in `count` of `length` frames, evenly spread and by change."""
    found = np.zeros(2)
    for index in range(FIRST, FIRST + videos):
        video = md.sample("test", index, length, camera=camera(name, [83, index]))
        (flash,) = video.flashes
        ways = spread(length, count), chosen_of(video.frames, count)
        found += [any(flash.start <= number < flash.stop for number in numbers) for numbers in ways]
    even, by_change = (found / videos).tolist()
    return even, by_change


def stood_for(model: Any, processor: Any, video: np.ndarray[Any, Any], count: int) -> tuple[float, float]:
    """Mean cosine of every frame's tokens with the nearest of `count` frames, evenly spread and by change."""
    prepared = processor.video_processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    pixels = prepared["pixel_values_videos"][0].to(model.dtype)
    unit = F.normalize(model.model.vision_tower(pixels).last_hidden_state.float(), dim=-1)
    ways = spread(len(video), count), chosen_of(video, count)
    even, by_change = ((unit @ unit[way].flatten(0, 1).T).amax(-1).mean().item() for way in ways)
    return even, by_change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("files", nargs="*", metavar="VIDEO")
    given = parser.parse_args()
    model, processor = load_model(checkpoint(None), "float32")
    shown = {name: [load_video(name, given.frames).frames] for name in given.files} or {
        name: [frames(FIRST + i, name) for i in range(given.videos)] for name in CAMERAS
    }
    with torch.inference_mode():
        for name, videos in shown.items():
            found = [shares(model, processor, video) for video in videos]
            print(name)
            for idea in found[0]:
                print(f"  {idea:28} {100 * np.mean([each[idea] for each in found]):5.1f}%", flush=True)
            for length, count in CHOSEN if not given.files else ():
                even, change = flashes(name, given.videos, length, count)
                print(f"  (c) flash in {count} of {length} frames: even {even:.1%}, by change {change:.1%}")
        for name in given.files:
            even, change = stood_for(model, processor, load_video(name, 64).frames, 16)
            print(f"{name}: (c) cosine of 64 frames with 16: even {even:.4f}, by change {change:.4f}")


if __name__ == "__main__":
    main()
