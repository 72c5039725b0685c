"""More video for the same tokens: few whole frames of a long video against many merged ones.

Every setting sends as many visual tokens into the language model as a few frames have with full tokens: a
method at 4 times as many frames keeps a quarter of their tokens. The questions are about long videos of
MovingDigits-QA (`split="long"`), of which a few frames miss short scenes and the shape that flashes for one
frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from holitom.bench import moving_digits as md
from holitom.bench.accuracy import processed, resumed, tried
from holitom.bench.answers import Answers
from holitom.bench.questions import FRAMES, Item
from holitom.bench.scores import results
from holitom.bench.settings import FULL, Setting, budgets
from holitom.bench.tower_cost import tower_operations
from holitom.errors import SettingsError
from holitom.methods.base import require
from holitom.methods.choose import Choice
from holitom.prompts import as_video
from holitom.video import Video
from holitom.video.metadata import TimedMetadata

RATE = 8.0
"""Frames a second: 256 frames last 32 seconds."""


class Group(NamedTuple):
    """The settings that see equally many frames.

    Attributes:
        frames: number of frames that are sampled from each video.
        settings: full tokens, or methods at the budget of equal cost.
    """

    frames: int
    settings: list[Setting]


def groups(
    methods: Sequence[Choice], frames: Sequence[int], whole: int = FRAMES, full_at: Sequence[int] = ()
) -> list[Group]:
    """Plan the settings, fewest frames first: full tokens of `whole` frames, then methods of equal cost.

    Args:
        methods: the methods.
        frames: numbers of frames above `whole`, at which each method keeps `whole / frames` of the tokens.
        whole: number of frames that are shown with full tokens, and so the budget of all.
        full_at: further numbers of frames shown with full tokens, at a higher cost.

    Raises:
        SettingsError: a number of frames is out of its range, or a method has a budget of its own.
    """
    require("whole", whole, "a whole number from 1 up", lambda n: n >= 1, whole=True)
    for count in (*frames, *full_at):
        require(
            "frames", count, f"above {whole}, the frames with full tokens", lambda n: n > whole, whole=True
        )
    if own := [choice.text for choice in methods if choice.retain_ratio is not None]:
        raise SettingsError(f"the number of frames gives the budget; leave retain_ratio out of {own[0]}")
    found = [Group(whole, [FULL])]
    for count in sorted({*frames, *full_at}):
        settings = [FULL] if count in full_at else []
        if count in frames:
            settings += [s for s in budgets(methods, [whole / count]) if s is not FULL]
        found.append(Group(count, settings))
    return found


def sampled(video: int, frames: int, length: int) -> Video:
    """Sample `frames` frames of a long video of `length` frames: the middles of as many equal parts."""
    numbers = [(2 * i + 1) * length // (2 * frames) for i in range(frames)]
    pixels = md.sample("long", video, length).frames
    seconds, size = [number / RATE for number in numbers], (md.SIDE, md.SIDE)
    return as_video(
        Video(pixels[numbers], TimedMetadata.of(seconds, numbers, length, RATE, length / RATE, size))
    )


def text_tokens(model: Any, processor: Any, item: Item, frames: int, length: int) -> int:
    """Number of tokens of the prompt of `item` that are no visual tokens, timestamps among them."""
    inputs = processed(model, processor, [item], {item.video: sampled(item.video, frames, length)})
    return int((inputs["input_ids"] != model.config.video_token_id).sum())


def opened(
    model: Any,
    processor: Any,
    planned: Sequence[Group],
    items: Sequence[Item],
    folder: Path,
    length: int,
    batch: int,
) -> tuple[list[Group], list[list[Answers]]]:
    """Mark the settings that cannot be met, and open the answers of the others, a folder for each group."""
    found, files = [], []
    for group in planned:
        draw = partial(sampled, frames=group.frames, length=length)
        settings = tried(group.settings, model, processor, items[0], draw)
        found.append(Group(group.frames, settings))
        files.append(resumed(model, settings, items, folder / f"{group.frames}-frames", batch))
    return found, files


def long_results(
    model: Any,
    processor: Any,
    checkpoint: str,
    name: str,
    items: Sequence[Item],
    planned: Sequence[Group],
    files: Sequence[Sequence[Answers]],
    length: int,
    quick: bool,
) -> dict[str, Any]:
    """Compute the contents of `results.json`, as those of the accuracy bench, with frames and further costs.

    Args:
        model: the model that answered.
        processor: the model's processor.
        checkpoint: the model's folder or id, whose tower is counted.
        name: the model's name.
        items: the questions.
        planned: all settings, of fewest frames first.
        files: the answers of the settings that are not refused, by group.
        length: number of frames of the videos.
        quick: whether the run was `--quick`.
    """
    settings = [setting for group in planned for setting in group.settings]
    of_all = [file for group in files for file in group]
    found = results(model, name, items, settings, of_all, quick, length)
    found["benchmark"] = "MovingDigits-QA, long videos"
    rows = iter(found["settings"])
    for group in planned:
        words = text_tokens(model, processor, items[0], group.frames, length)
        for setting in group.settings:
            row = next(rows)
            row["frames"] = group.frames
            row["text_tokens"] = words
            row["tower_operations"] = tower_operations(checkpoint, group.frames, setting.method)
    found["whole_frames"] = planned[0].frames
    return found
