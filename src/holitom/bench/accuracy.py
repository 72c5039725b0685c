"""Accuracy on MovingDigits-QA: what a model still answers when its visual tokens are merged.

Every setting (full tokens, or one method at one budget) answers the same held-out questions through the
stock processor and `generate`. Questions go batch by batch, and in a batch setting by setting, so that frames
are drawn, prepared and encoded once for all settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from holitom.bench import moving_digits as md
from holitom.bench.answers import Answered, Answers, check_folder, identity
from holitom.bench.questions import FRAMES, Item, batches, held_out_questions
from holitom.bench.settings import Setting
from holitom.bench.shared import SharedVideos, encode_once, run_of_tower
from holitom.contract import FrameMerging, Reuse
from holitom.costs.decoder import Level
from holitom.errors import SettingsError
from holitom.methods.base import Method

Run = tuple[Reuse | None, FrameMerging | None]

BATCH = 48
MAX_NEW_TOKENS = 4


def tried(settings: Sequence[Setting], model: Any, processor: Any) -> list[Setting]:
    """`settings`, with those refused that the model's layers or the videos' shape rule out.

    Each is attached once and merges one video.
    """
    methods = [setting.method for setting in settings if setting.method]
    found = []
    with torch.inference_mode():
        inputs = _inputs(model, processor, held_out_questions(1)[:1])
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
    """The answers that `folder` holds already, of every setting that is not refused.

    Raises:
        ResultsError: some are of another model, question set or setting.
        SettingsError: there can be no such folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder}: {error.strerror}") from error
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
) -> None:
    """Answer every item that is not answered yet, under every setting.

    Args:
        model: to which nothing is attached.
        processor: the model's.
        files: from `resumed`, with the same items and batch; they are added to.
        items: what to ask; a video's questions together.
        batch: questions answered at a time, rounded up to whole videos.
        progress: called with the number of answers just added.
    """
    start = 0
    with torch.inference_mode():
        for part in batches(items, batch):
            waiting = [file for file in files if len(file.done) == start]
            start += len(part)
            if not waiting:
                continue
            inputs, shared, rows = _prepared(model, processor, part, [file.setting for file in waiting])
            for file in waiting:
                method = file.setting.method
                file.add(_answers(model, processor, inputs, shared[run_of_tower(method)], rows, method))
                progress(len(part))


def prompt(processor: Any, text: str) -> str:
    """The chat template's prompt for one video and one question."""
    content = [{"type": "video"}, {"type": "text", "text": text}]
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return rendered


def _inputs(model: Any, processor: Any, items: Sequence[Item]) -> Any:
    frames = {video: md.sample("test", video, FRAMES).frames for video in {item.video for item in items}}
    return processor(
        text=[prompt(processor, item.text) for item in items],
        videos=[frames[item.video] for item in items],
        return_tensors="pt",
        padding=True,
    ).to(model.device, model.dtype)


def _prepared(
    model: Any, processor: Any, items: Sequence[Item], settings: Sequence[Setting]
) -> tuple[dict[str, Any], dict[Run, SharedVideos], list[int]]:
    """The prompts of `items`, their videos, and which video each prompt asks about.

    Videos are encoded once for all settings that want the same of the vision tower.
    """
    first = {item.video: item for item in reversed(items)}
    videos = list(first)
    methods = [setting.method for setting in settings]
    shared = _encoded(model, _inputs(model, processor, list(first.values())), methods)
    inputs = dict(_inputs(model, processor, items))
    del inputs["pixel_values_videos"]  # encoded already
    return inputs, shared, [videos.index(item.video) for item in items]


def _encoded(model: Any, inputs: Any, methods: Sequence[Method | None]) -> dict[Run, SharedVideos]:
    """The videos in `inputs`, encoded once for all `methods` that want the same of the vision tower."""
    runs: dict[Run, list[Method]] = {run_of_tower(method): [] for method in methods}
    for method in methods:
        if method:
            runs[run_of_tower(method)].append(method)
    return {run: encode_once(model, inputs, own) for run, own in runs.items()}


def _answers(
    model: Any,
    processor: Any,
    inputs: dict[str, Any],
    shared: SharedVideos,
    rows: list[int],
    method: Method | None,
) -> list[Answered]:
    ids = inputs["input_ids"]
    with method(model) if method else nullcontext() as run:
        given = {**inputs, **shared.ask(run, rows)}
        out = model.generate(**given, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    if run is None:
        levels: list[tuple[Level, ...]] = [
            (Level(0, count),) for count in (ids == model.config.video_token_id).sum(1).tolist()
        ]
    else:
        assert run.last is not None, "every row holds a video"
        levels = [
            (Level(0, video.sent), *(Level(layer, len(video.survivors(layer))) for layer in video.inner))
            for video in run.last.videos
        ]
    said = processor.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [Answered(text.strip(), seen) for text, seen in zip(said, levels, strict=True)]
