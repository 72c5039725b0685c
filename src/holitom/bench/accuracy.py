"""Accuracy on MovingDigits-QA with full and with merged visual tokens.

Every setting (full tokens, or one method at one budget) answers the same held-out questions through the
stock processor and `generate`. Questions run in batches, and all settings answer a batch before the next
begins, so that frames are drawn, processed and encoded once for all settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from holitom.bench.answers import Answered, Answers, check_folder, identity, make_folder
from holitom.bench.moving_camera import shown
from holitom.bench.questions import Item, batches, held_out_questions
from holitom.bench.settings import Setting
from holitom.bench.shared import SharedVideos, TowerRun, encode_once, run_of_tower
from holitom.costs.decoder import Level
from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.prompts import as_video, asking, prompts
from holitom.runtime import Report

Draw = Callable[[int], Any]
"""Draws a video by its number, in a form that `as_video` takes."""

BATCH = 48
MAX_NEW_TOKENS = 4


def tried(
    settings: Sequence[Setting], model: Any, processor: Any, item: Item | None = None, draw: Draw = shown
) -> list[Setting]:
    """Attach each setting once and merge one video, to mark as refused the settings that cannot be met.

    Args:
        settings: the settings.
        model: a model without an attached method.
        processor: the model's processor.
        item: a question about the video; None: the benchmark's first.
        draw: draws videos.
    """
    methods = [setting.method for setting in settings if setting.method]
    found = []
    with torch.inference_mode():
        item = item or held_out_questions(1)[0]
        inputs = processed(model, processor, [item], {item.video: draw(item.video)})
        shared = _encoded(model, inputs, methods)
        for setting in settings:
            try:
                if setting.method:
                    setting.method.attach(model).detach()
                    setting.method.merge(shared[run_of_tower(setting.method)].encoded.encodings[0])
                found.append(setting)
            except SettingsError as error:
                found.append(replace(setting, method=None, refused=str(error)))
    return found


def resumed(
    model: Any, settings: Sequence[Setting], items: Sequence[Item], folder: Path, batch: int = BATCH
) -> list[Answers]:
    """Open the answers in `folder` of every setting that is not refused.

    Raises:
        ResultsError: some answers are of another model, question set or setting.
        SettingsError: the folder cannot be made.
    """
    make_folder(folder)
    mark = identity(model, items)
    check_folder(folder, mark)
    parts = batches(items, batch)
    return [Answers.open(setting, folder, mark, parts) for setting in settings if not setting.refused]


def sweep(
    model: Any,
    processor: Any,
    files: Sequence[Answers],
    items: Sequence[Item],
    batch: int = BATCH,
    progress: Callable[[int], None] = lambda done: None,
    draw: Draw = shown,
) -> None:
    """Answer every item that is not answered yet, under every setting.

    Args:
        model: a model without an attached method.
        processor: the model's processor.
        files: from `resumed`, with the same items and batch; answers are appended to them.
        items: the questions, those of a video one after another.
        batch: questions answered at a time, rounded up to whole videos.
        progress: called with the number of answers just added.
        draw: draws videos.
    """
    start = 0
    with torch.inference_mode():
        for part in batches(items, batch):
            waiting = [file for file in files if len(file.done) == start]
            start += len(part)
            if not waiting:
                continue
            videos, inputs, rows = parted(model, processor, part, draw)
            shared = _encoded(model, videos, [file.setting.method for file in waiting])
            for file in waiting:
                method = file.setting.method
                seen = shared[run_of_tower(method)]
                said, report = generated(model, processor, inputs, seen, rows, method)
                levels = _levels(report, inputs["input_ids"] == model.config.video_token_id)
                file.add([Answered(*answer) for answer in zip(said, levels, strict=True)])
                progress(len(part))


def processed(model: Any, processor: Any, items: Sequence[Item], frames: Mapping[int, Any]) -> Any:
    """Process a batch of questions, each with its video's `frames`, which are two a second where they state
    no times."""
    asked = [asking(processor, item.text) for item in items]
    shown = [as_video(frames[item.video]) for item in items]
    return prompts(processor, asked, shown).to(model.device, model.dtype)


def parted(
    model: Any, processor: Any, items: Sequence[Item], draw: Draw
) -> tuple[Any, dict[str, Any], list[int]]:
    """Draw videos, and process them apart from prompts, so that each is encoded once.

    Returns:
        The processor's output with each video once; its output for every prompt, without pixels; and for
        every prompt the number of its video.
    """
    first = {item.video: item for item in reversed(items)}
    frames = {video: draw(video) for video in first}
    videos = processed(model, processor, list(first.values()), frames)
    inputs = dict(processed(model, processor, items, frames))
    del inputs["pixel_values_videos"]
    return videos, inputs, [list(first).index(item.video) for item in items]


def _encoded(model: Any, inputs: Any, methods: Sequence[Method | None]) -> dict[TowerRun, SharedVideos]:
    """Encode the videos in `inputs`, once for all `methods` that can share a run of the vision tower."""
    runs: dict[TowerRun, list[Method]] = {run_of_tower(method): [] for method in methods}
    for method in methods:
        if method:
            runs[run_of_tower(method)].append(method)
    return {run: encode_once(model, inputs, own) for run, own in runs.items()}


def generated(
    model: Any,
    processor: Any,
    inputs: dict[str, Any],
    shared: SharedVideos,
    rows: list[int],
    method: Method | None,
) -> tuple[list[str], Report | None]:
    """Answer prompts about encoded videos with `method` attached; the report is None without a method."""
    with method(model) if method else nullcontext() as run:
        given = {**inputs, **shared.ask(run, rows)}
        out = model.generate(**given, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in said], None if run is None else run.last


def _levels(report: Report | None, placeholders: torch.Tensor) -> list[tuple[Level, ...]]:
    """Visual tokens by layer of every row, from the report or, without one, from `placeholders` `[B, L]`."""
    if report is None:
        return [(Level(0, count),) for count in placeholders.sum(1).tolist()]
    return [
        (Level(0, video.sent), *(Level(layer, len(video.survivors(layer))) for layer in video.inner))
        for video in report.videos
    ]
