"""Cost of every method's outer stage, beside HoliTom's on the same video: time, operations, memory.

Videos are those of `bench.overhead`: 32 frames of LLaVA-OneVision-7B's shape, and a long one of 1,024 frames
of its 0.5B sibling's. On a GPU a call's seconds are the GPU's own, from the call's first kernel to its last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch

from holitom.bench.machine import peak_memory, threads
from holitom.bench.overhead import NARROW, WIDTH, Count, count_operations, seconds_of, synthetic_video
from holitom.bench.settings import Setting
from holitom.errors import HolitomError
from holitom.methods.base import Method
from holitom.methods.holitom import HoliTom
from holitom.ops.host import HOST
from holitom.tokens import VideoTokens

FRAMES, LONG = 32, 1024
KEY_WIDTH = 72  # of one head of SigLIP-so400m
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """What one call takes: `seconds`, and `megabytes` at its peak above the video's (None: unknown)."""

    seconds: float
    megabytes: float | None


@dataclass(frozen=True)
class OuterStage:
    """What one method's outer stage takes.

    Attributes:
        title: the method and its budget.
        refused: the reason of a refusal: of the method, or of `LONG` frames alone; None: there is none.
        short: the median of several calls on `FRAMES` frames; None where the method was refused.
        against_holitom: median over rounds of its time divided by HoliTom's in the same round.
        count: operations and device synchronisations for `FRAMES` frames.
        long: one call on `LONG` frames; None where it was refused or not asked for.
    """

    title: str
    refused: str | None = None
    short: Cost | None = None
    against_holitom: float | None = None
    count: Count | None = None
    long: Cost | None = None


def outer_stages(
    settings: Sequence[Setting],
    long: bool = True,
    cores: int = 2,
    device: torch.device = HOST,
    dtype: torch.dtype = torch.float32,
    done: Callable[[OuterStage], None] = lambda stage: None,
) -> list[OuterStage]:
    """Measure the outer stage of every setting that holds a method with one.

    Args:
        settings: methods at budgets; full tokens are left out.
        long: whether to merge the long video too.
        cores: threads of torch.
        device: device that merges.
        dtype: dtype of the features.
        done: called after every measurement with what is known of the method: after the short video, and
            again after the long one.
    """
    short = _ready(synthetic_video(FRAMES, WIDTH, dtype), device)
    extended = _ready(synthetic_video(LONG, NARROW, dtype), device) if long else None
    found = []
    with threads(cores), torch.no_grad():
        for setting in settings:
            if setting.method is None and setting.refused is None:
                continue
            found.append(_measured(setting, short, extended, done))
    return found


def _ready(video: VideoTokens, device: torch.device) -> VideoTokens:
    """The video on `device`, with what some methods read: keys, and importance of an early layer."""
    frames, tokens, _ = video.features.shape
    rng = torch.Generator().manual_seed(1)
    keys = torch.randn(frames, tokens, KEY_WIDTH, generator=rng)
    shallow = torch.rand(frames, tokens, generator=rng)
    return replace(
        video,
        features=video.features.to(device),
        importance=video.importance.to(device),
        keys=keys.to(device, video.features.dtype),
        shallow=shallow.to(device),
    )


def _measured(
    setting: Setting, short: VideoTokens, long: VideoTokens | None, done: Callable[[OuterStage], None]
) -> OuterStage:
    stage = OuterStage(setting.title, setting.refused)
    if setting.method is not None:
        try:
            stage = _short(stage, setting.method, short)
            if long is not None:
                done(stage)
                device = long.features.device
                with peak_memory(device) as peak:
                    seconds = seconds_of(partial(setting.method.merge, long), device)
                stage = replace(stage, long=Cost(seconds, peak.megabytes))
        except HolitomError as error:
            stage = replace(stage, refused=str(error))
    done(stage)
    return stage


def _short(stage: OuterStage, method: Method, video: VideoTokens) -> OuterStage:
    """Time the method and HoliTom at the same budget in turn, after a warm-up, and count once."""
    holitom = HoliTom(retain_ratio=method.retain_ratio)
    device = video.features.device
    calls = [partial(method.merge, video), partial(holitom.merge, video)]
    with peak_memory(device) as peak:
        calls[0]()
    calls[1]()
    rounds = [[seconds_of(call, device) for call in calls] for _ in range(ROUNDS)]
    return replace(
        stage,
        short=Cost(median(own for own, _ in rounds), peak.megabytes),
        against_holitom=median(own / reference for own, reference in rounds),
        count=count_operations(calls[0]),
    )
