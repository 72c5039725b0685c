"""Whose fault a wrong answer is: were the tokens that it needs merged away, or did the model fail with them?

For every question that `holitom bench accuracy` has asked: whether all that it needs is still among what is
sent into the language model, and how often the answer is right when it is and when it is not. Needed is the
least that tells the answer: one sight of the digit (identity) or of every digit of the scene (count, order),
its first and its last cell (motion), one of these (position), the flash (needle), a token of each scene
(scenes). A token counts as there in its own place, or where it was averaged over time, not where it joined a
cluster.

Run the sweep first, with the same options:

    holitom bench accuracy --per-task 50 --retain 0.05 --methods holitom-outer --output runs/needed
    python tools/needed_tokens.py --per-task 50 --retain 0.05 --methods holitom-outer --output runs/needed
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

import torch

from holitom.ask import load_model
from holitom.bench import moving_digits as md
from holitom.bench.accuracy import resumed
from holitom.bench.questions import FRAMES, Item, held_out_questions
from holitom.bench.settings import FULL, budgets
from holitom.bench.shared import encode_once
from holitom.bundled import BUNDLED_MODEL
from holitom.methods.choose import read_methods

Places = set[tuple[int, int]]  # frame and position


def needed(item: Item, video: md.Sample) -> list[Places]:
    """For each thing that must be seen, the tokens that show it: one of them will do."""
    words = item.text.lower().rstrip("?").split()
    if item.task == "needle":
        return [{(t, place(f.cell)) for t in range(f.start, f.stop)} for f in video.flashes]
    if item.task == "scenes":
        frames = [(video.scene == scene).nonzero()[0].tolist() for scene in range(video.scenes)]
        return [{(t, n) for t in shown for n in range(md.GRID**2)} for shown in frames]
    if item.task in ("count", "order"):
        scene = 0 if "first" in words else video.scenes - 1
        return [sights(digit) for digit in video.digits if digit.scene == scene]
    digit = next(d for d in video.digits if list(md.COLORS)[d.color] in words)
    ends = [{(t, n) for t, n in sights(digit) if n == place(digit.cells[end])} for end in (0, -1)]
    if item.task == "motion":
        return ends
    if item.task == "position":
        return [ends[-1] if "end" in words else ends[0]]
    return [sights(digit)]


def sights(digit: md.Digit) -> Places:
    return {(t, place(cell)) for t, cell in enumerate(digit.cells, digit.start)}


def place(cell: tuple[int, int]) -> int:
    return int(cell[1]) * md.GRID + int(cell[0])


@torch.inference_mode()
def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--model", default=str(BUNDLED_MODEL))
    ask.add_argument("--methods", default="holitom-outer,holitom-plus[inner_drop=none]")
    ask.add_argument("--retain", default="0.1,0.05")
    ask.add_argument("--per-task", type=int, default=150)
    ask.add_argument("--first-video", type=int, default=0)
    ask.add_argument("--output", type=Path, default=Path("runs/accuracy"), help="the sweep's folder")
    a = ask.parse_args()

    model, processor = load_model(a.model)
    items = held_out_questions(a.per_task, first_video=a.first_video)
    settings = budgets(read_methods(a.methods), [float(ratio) for ratio in a.retain.split(",")])
    files = [f for f in resumed(model, settings, items, a.output, batch=1) if f.setting is not FULL]
    for file in files:
        if len(file.done) < len(items):
            raise SystemExit(
                f"{file.path} holds {len(file.done)} of {len(items)} answers; run the sweep first"
            )

    right: dict[tuple[str, str, bool], list[bool]] = {}
    start = 0
    for index, asked in groupby(items, key=lambda item: item.video):
        questions, video = list(asked), md.sample("test", index, FRAMES)
        pixels = processor.video_processor([video.frames], return_tensors="pt").to(model.device, model.dtype)
        encoded = encode_once(model, pixels, [f.setting.method for f in files]).encoded.encodings[0]
        for file in files:
            merged = file.setting.method.merge(encoded)
            sent = set(zip(merged.frame.tolist(), merged.position.tolist(), strict=True))
            for number, item in enumerate(questions, start):
                there = all(sent & places for places in needed(item, video))
                key = (file.setting.title, item.task, there)
                right.setdefault(key, []).append(file.done[number].said == item.answer)
        start += len(questions)

    for file in files:
        print(file.setting.title)
        for task in md.TASKS:
            seen, gone = (right.get((file.setting.title, task, there), []) for there in (True, False))
            total = len(seen) + len(gone)
            print(
                f"  {task:9} {len(seen) / total:6.1%} of {total} have what they need; "
                f"right with it {share(seen)}, without {share(gone)}"
            )


def share(right: list[bool]) -> str:
    return f"{sum(right) / len(right):6.1%}" if right else "     -"


if __name__ == "__main__":
    main()
