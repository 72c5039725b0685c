"""Resize frames to the size that a processor resizes them to, one at a time as they are read.

A processor's first step on a video is to resize all of its frames at once, which takes memory for the whole
video in full size and copies of it. The same step on one frame after another gives the same bytes, and only
frames of the resized size need to be kept.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import SizeDict
from transformers.video_processing_utils import BaseVideoProcessor

from holitom.video import Fit, Resize, Video
from holitom.video.threads import mapped
from holitom.video.upright import Array


class _CalledError(Exception):
    """Ends a processor's call at its first step, with the arguments of that step."""


def fit_of(processor: Any) -> Fit:
    """Find how `processor` resizes the frames of a video, for `load_sampled` and `fitted`.

    The processor is called on a video without pixels (on PyTorch's meta device) of the same number of frames,
    up to its first resize. The number of frames matters, since some families give each frame a share of a
    budget of pixels.

    Args:
        processor: the model's own processor, with a `video_processor`.
    """
    together = getattr(processor.video_processor, "temporal_patch_size", 1)

    def fit(frames: int, height: int, width: int) -> Resize | None:
        return _resize(processor, max(frames, together), height, width)

    return fit


def fitted(video: Video, fit: Fit) -> Video:
    """Resize the frames of `video` by `fit`; a video that is fitted already, or cannot be, is returned as it
    is."""
    count, height, width = video.frames.shape[:3]
    resize = None if video.fitted else fit(count, height, width)
    if resize is None:
        return video
    first = resize(video.frames[0], 0)
    frames = np.empty((count, *first.shape), np.uint8)
    frames[0] = first

    def put(number: int) -> None:
        frames[number] = resize(video.frames[number], number)

    for _ in mapped(put, range(1, count)):
        pass
    return replace(video, frames=frames, fitted=True)


def _resize(processor: Any, frames: int, height: int, width: int) -> Resize | None:
    whole = torch.empty(frames, 3, height, width, dtype=torch.uint8, device="meta")
    try:
        # Two frames tell a processor that resizes all of them from one that cuts each first (MiniCPM-V).
        apart = _first_step(processor, whole if frames > 1 else whole.expand(2, -1, -1, -1))
        step = _first_step(processor, whole)
        if step is None or apart is None:
            return None
        size = step(whole[None]).shape[-2:]
    except Exception:  # the processor's own call will raise it again, with the true video
        return None
    if not _same_alone(step, whole, size):  # the size depends on the number of frames
        goal, how = SizeDict(height=size[0], width=size[1]), step.keywords.get("resample")
        step = partial(BaseVideoProcessor.resize, processor.video_processor, size=goal, resample=how)

    def resize(frame: Array, number: int) -> Array:
        # A view whose channels come last in memory is resized several times as fast, to the same bytes.
        video = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None, None]
        found: Array = step(video)[0, 0].permute(1, 2, 0).numpy()
        return found

    return resize


def _first_step(processor: Any, video: Tensor) -> partial[Tensor] | None:
    """The video processor's `resize` with the arguments of its first call for `video` `[F, 3, H, W]`.

    None where that call does not resize all frames together, or there is none.
    """
    resize = processor.video_processor.resize

    def stop(*args: Any, **kwargs: Any) -> None:
        given = inspect.signature(resize).bind(*args, **kwargs).arguments
        others = given.pop("kwargs", {})
        raise _CalledError({**given, **others})

    probe = copy.copy(processor)
    probe.video_processor = copy.copy(processor.video_processor)
    probe.video_processor.resize = stop
    try:
        probe(
            text=[getattr(processor, "video_token", "<video>")],
            videos=[video],
            do_sample_frames=False,
            return_tensors="pt",
        )
    except _CalledError as called:
        (_, resized), *others = called.args[0].items()
        return partial(resize, **dict(others)) if resized.shape[:2] == (1, len(video)) else None
    return None


def _same_alone(step: partial[Tensor], whole: Tensor, size: torch.Size) -> bool:
    """Whether a single frame is resized to the same size as each frame of the whole video."""
    try:
        return step(whole[None, :1]).shape[-2:] == size
    except ValueError:  # too few frames for a temporal patch
        return False
