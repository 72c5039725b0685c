"""Reuse in the vision tower on MovingDigits-QA, compared with the stock tower: computed share and accuracy.

Every question is answered twice by each method: over the stock tower's features and over those with reuse.
Videos may be seen by a moving camera (`moving_camera`), and disturbed, in the same way for both, as cameras
and codecs do. Figures are kept in files, one for each camera and disturbance, so that a run can go on.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from holitom.bench import moving_camera
from holitom.bench.accuracy import generated, parted
from holitom.bench.answers import check_mark, identity
from holitom.bench.drift import Cosines, overlap, similarity
from holitom.bench.questions import Item, batches
from holitom.bench.shared import encode_once, encoder_arguments
from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.models import adapter_for
from holitom.tower import Reuse, ReusedTower

Frames = npt.NDArray[np.uint8]


def _jpeg(frame: Frames) -> Frames:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=50)
    return np.asarray(Image.open(file))


def _rounded(levels: npt.NDArray[np.float64]) -> Frames:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


DISTURBANCES: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "none": lambda frames, rng: frames,
    "noise": lambda frames, rng: _rounded(frames + rng.normal(0, 6, frames.shape)),
    "flicker": lambda frames, rng: _rounded(frames + rng.uniform(-8, 8, (len(frames), 1, 1, 1))),
    "jpeg": lambda frames, rng: np.stack([_jpeg(frame) for frame in frames]),
    "faint": lambda frames, rng: _rounded(128 + (frames.astype(np.float64) - 128) / 2),
    "pan": lambda frames, rng: np.stack([np.roll(frame, t, axis=1) for t, frame in enumerate(frames)]),
}
"""Disturbances of a video's frames: none; Gaussian noise of sigma 6; each frame's brightness changed by up to
8 levels; each frame compressed as JPEG of quality 50; contrast halved; a pan of one pixel per frame."""


@dataclass
class Tally:
    """Figures of one camera and disturbance, summed over batches.

    Attributes:
        disturbance: a name in `DISTURBANCES`.
        camera: a name in `moving_camera.CAMERAS`.
        right: by method, for each question, whether the answer is right over the stock tower and with reuse.
        computed: number of patches that the tower computed, and number of all patches.
        cosines: cosine similarity of every visual token to the stock tower's.
        overlaps: by method, for each video, share of the kept tokens that are kept with reuse too.
    """

    disturbance: str
    camera: str = moving_camera.STILL
    right: dict[str, list[tuple[bool, bool]]] = field(default_factory=dict)
    computed: tuple[int, int] = (0, 0)
    cosines: list[torch.Tensor] = field(default_factory=list)
    overlaps: dict[str, list[float]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Name of the file of these figures."""
        return f"{self.camera}-{self.disturbance}.pt"

    @property
    def questions(self) -> int:
        """Number of questions that were answered."""
        return len(next(iter(self.right.values()), []))

    def to_dict(self) -> dict[str, Any]:
        """The figures for JSON, shares in 0..1."""
        return {
            "camera": self.camera,
            "disturbance": self.disturbance,
            "computed_share": self.computed[0] / self.computed[1],
            "cosine": vars(Cosines.of(torch.cat(self.cosines))),
            "methods": {
                name: {
                    "questions": len(pairs),
                    "stock": sum(stock for stock, _ in pairs) / len(pairs),
                    "reuse": sum(reused for _, reused in pairs) / len(pairs),
                    "lost": sum(stock and not reused for stock, reused in pairs),
                    "won": sum(reused and not stock for stock, reused in pairs),
                    "kept_overlap": float(np.mean(self.overlaps[name])),
                }
                for name, pairs in self.right.items()
            },
        }


def sweep(
    model: Any,
    processor: Any,
    methods: dict[str, Method],
    items: Sequence[Item],
    reuse: Reuse,
    shown: Sequence[tuple[str, str]],
    batch: int = 48,
    progress: Callable[[int], None] = lambda done: None,
    folder: Path | None = None,
    seconds: float | None = None,
) -> list[Tally]:
    """Answer `items` over both towers by every method, before several cameras and disturbances in turn.

    Args:
        model: a model without an attached method.
        processor: the model's processor.
        methods: methods by name.
        items: the questions, those of a video one after another.
        reuse: settings of reuse.
        shown: pairs of a camera and a disturbance.
        batch: questions answered at a time, rounded up to whole videos.
        progress: called with the number of questions just answered, or found answered.
        folder: an existing folder of files in which the figures are kept, and from which they go on.
        seconds: a round of batches begins only within so many seconds; None: all questions are answered.

    Raises:
        SettingsError: there is no such camera or disturbance.
        ResultsError: a file is of another model, or of other questions, methods or settings.
        UnsupportedModelError: the model's tower does not support reuse.
    """
    began = time.monotonic()
    check_shown(shown)
    texts = {name: repr(method) for name, method in methods.items()}
    mark = {**identity(model, items), "methods": texts, "reuse": repr(reuse), "batch": batch}
    tallies = [_opened(Tally(disturbance, camera), folder, mark) for camera, disturbance in shown]
    tower = ReusedTower(adapter_for(model))
    done = 0
    try:
        with torch.inference_mode():
            for part in batches(items, batch) if items else []:
                if seconds is not None and time.monotonic() - began > seconds:
                    break
                for tally in tallies:
                    if tally.questions == done:
                        _measure(model, processor, methods, part, reuse, tower, tally)
                        _keep(tally, folder, mark)
                    progress(len(part))
                done += len(part)
    finally:
        tower.detach()
    return tallies


def check_shown(shown: Sequence[tuple[str, str]]) -> None:
    """Raise a `SettingsError` for pairs of a camera and a disturbance of which one is unknown."""
    for camera, disturbance in shown:
        moving_camera.check_camera(camera)
        if disturbance not in DISTURBANCES:
            raise SettingsError(f"unknown disturbance {disturbance!r}; known: {', '.join(DISTURBANCES)}")


def _opened(empty: Tally, folder: Path | None, mark: dict[str, Any]) -> Tally:
    """The figures in `folder` of the camera and disturbance of `empty`; `empty` where there are none."""
    if folder is None or not (path := folder / empty.file).exists():
        return empty
    found = torch.load(path, weights_only=True)
    check_mark(path, found["mark"], mark)
    return Tally(**found["tally"])


def _keep(tally: Tally, folder: Path | None, mark: dict[str, Any]) -> None:
    if folder is None:
        return
    path = folder / tally.file
    part = path.with_suffix(".part")
    torch.save({"mark": mark, "tally": vars(tally)}, part)
    part.replace(path)


def _measure(
    model: Any,
    processor: Any,
    methods: dict[str, Method],
    items: Sequence[Item],
    reuse: Reuse,
    tower: ReusedTower,
    tally: Tally,
) -> None:
    draw = partial(disturbed, disturbance=tally.disturbance, camera=tally.camera)
    videos, prompts, rows = parted(model, processor, items, draw)
    stock = encode_once(model, videos, methods.values())
    arguments = encoder_arguments(tower.tower.adapter, videos)
    with tower.call(reuse, arguments) as report:
        reused = encode_once(model, videos, methods.values())
    places = sum(plan.computed.size for plan in report.plans)
    computed, of_all = tally.computed
    tally.computed = computed + round(report.computed_share * places), of_all + places
    pairs = list(zip(stock.encoded.encodings, reused.encoded.encodings, strict=True))
    tally.cosines += [similarity(one.features, other.features).flatten().cpu() for one, other in pairs]
    for name, method in methods.items():
        answers = [
            generated(model, processor, prompts, shared, rows, method)[0] for shared in (stock, reused)
        ]
        tally.right.setdefault(name, []).extend(
            (one == item.answer, other == item.answer)
            for one, other, item in zip(*answers, items, strict=True)
        )
        for one, other in pairs:
            kept, also = method.merge(one), method.merge(other)
            same = overlap((kept.frame, kept.position), (also.frame, also.position))
            tally.overlaps.setdefault(name, []).append(same)


def disturbed(video: int, disturbance: str, camera: str = moving_camera.STILL) -> Frames:
    """Draw and disturb the frames `[T, H, W, 3]` of a held-out video, in the same way each time."""
    frames = moving_camera.frames(video, camera)
    return DISTURBANCES[disturbance](frames, np.random.default_rng([71, video]))
