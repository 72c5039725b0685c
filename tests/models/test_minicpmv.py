"""MiniCPM-V: crops of a frame, which of them are whose, and what each has attended to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import Small, small
from support.families.minicpmv4_6 import processor
from support.reference import attention_weights, videos_of
from torch.testing import assert_close

from holitom import HoliTom, Method, UnsupportedUsageError

NAME = "minicpm-v-4.6"


def clips(one: Small, *prompts: str, kinds: tuple[int, ...], **settings: Any) -> Any:
    return one.inputs(*prompts, videos=[one.video(seed, kind) for seed, kind in enumerate(kinds)], **settings)


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_importance_is_the_attention_received_within_a_crop(mode: str) -> None:
    """Pooled by hand, crop by crop; a frame's crops share one by their tokens."""
    one = small(NAME, "eager")
    settings = {} if mode == "16x" else {"downsample_mode": mode}
    inputs = clips(one, "<video> w1 <video>", kinds=(0, 1), videos_kwargs=settings)
    inputs |= settings
    weights = attention_weights(one.model, lambda: one.model(**inputs))
    sliced, whole = videos_of(one.model, inputs)
    sizes = (inputs["target_sizes_videos"] // (2 if mode == "16x" else 1)).tolist()
    pooled = [
        own[0].mean((0, 1)).view(h // 2, 2, w // 2, 2).mean((1, 3)).flatten()
        for own, (h, w) in zip(weights, sizes, strict=True)
    ]
    frames = [pooled[first : first + 3] for first in range(0, 3 * 8, 3)]
    tokens = sum(map(len, frames[0]))
    wanted = torch.stack([torch.cat([crop * len(crop) / tokens for crop in crops]) for crops in frames])
    assert sliced.features.shape[:2] == wanted.shape == (8, 25 if mode == "16x" else 105)
    assert_close(sliced.importance, wanted, atol=1e-6, rtol=1e-5)
    assert_close(whole.importance, torch.stack(pooled[3 * 8 :]), atol=1e-6, rtol=1e-5)
    assert whole.grid[0] * whole.grid[1] == whole.features.shape[1]


def test_features_are_the_models_own() -> None:
    one = small(NAME)
    inputs = clips(one, "<video> w1 <video>", kinds=(0, 1))
    pixels = {name: inputs[name] for name in ("pixel_values_videos", "target_sizes_videos")}
    with torch.no_grad():
        sent = torch.cat(one.model.model.get_video_features(**pixels).pooler_output)
    assert torch.equal(
        torch.cat([video.features.flatten(0, 1) for video in videos_of(one.model, inputs)]), sent
    )


@pytest.mark.parametrize(
    ("prompts", "kinds", "frames"),
    [
        (("<video><video>",), (0, 0), [8, 8]),  # their ids stand between them
        (("<image> w1 <video> <image>",), (1,), [4]),
        (("<video> w1", "w2", "<image><video>w3<video>"), (0, 1, 0), [8, 4, 8]),
        (("<image>",), (), []),
    ],
)
def test_videos_are_told_apart(prompts: tuple[str, ...], kinds: tuple[int, ...], frames: list[int]) -> None:
    one = small(NAME)
    images = [one.image(seed) for seed in range("".join(prompts).count("<image>"))]
    inputs = clips(one, *prompts, kinds=kinds, images=images)
    with torch.no_grad():
        full = one.model(**inputs).logits
        with Method(1.0)(one.model) as run:
            assert torch.equal(one.model(**inputs).logits, full)
    assert [video.frames for video in run.last.videos] * bool(frames) == frames if run.last else not frames


def test_frames_that_are_cut_differently_are_refused() -> None:
    """`stack_frames` puts composites of another size between a video's frames."""
    one = small(NAME)
    inputs = processor(stack_frames=3)(
        text=["<|video_pad|> w1"],
        videos=[one.video()],
        do_sample_frames=False,
        video_metadata=[
            {"fps": 4.0, "duration": 2.0, "total_num_frames": 8, "frames_indices": list(range(8))}
        ],
        return_tensors="pt",
    )
    with HoliTom(0.4)(one.model), torch.no_grad(), pytest.raises(UnsupportedUsageError, match="stack_frames"):
        one.model(**inputs)
