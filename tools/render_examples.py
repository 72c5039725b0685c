"""Render the example videos of `holitom web`, ask the bundled models about them, and record what they say.

    python tools/render_examples.py              # writes src/holitom/assets/examples/
    python tools/render_examples.py --model moving-digits-qwen   # the examples of one model alone
    python tools/render_examples.py --look 0 30                  # only prints where merging hurts each

Each video is a held-out MovingDigits-QA sample, as in `render_demo.py`. Of its questions those are recorded
that the model answers rightly with full tokens, no two of a task, with what it answers under HoliTom at 10%;
those that it then answers wrongly come first. A video that is there is not rendered anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from render_demo import INDEX, enlarged, write_h264

from holitom import HoliTom, Method
from holitom.ask import ask, load_model, prompt
from holitom.bench import moving_digits
from holitom.bundled import ASSETS, BUNDLED_FRAMES, DEMO_VIDEO
from holitom.video import load_video
from holitom.web.library import FOLDER

HURT = ("count", "motion", "needle")  # tasks that merging hurts most
# Held-out samples of each model: the title, the most questions about it, and their tasks. Models share the
# videos.
CHOSEN = {
    "moving-digits": {
        INDEX: ("Three scenes:", 4, moving_digits.TASKS),
        1: ("Four scenes:", 4, moving_digits.TASKS),
        7: ("Four other scenes:", 2, HURT),  # merging hurts in these three
        9: ("Two scenes:", 2, HURT),
        5: ("Three other scenes:", 2, HURT),
    },
    "moving-digits-qwen": {
        INDEX: ("Three scenes:", 3, moving_digits.TASKS),
        1: ("Four scenes:", 3, moving_digits.TASKS),
        9: ("Two scenes:", 2, HURT),
        5: ("Three other scenes:", 2, HURT),
    },
}
RATIO = 0.1


def render(index: int, path: Path) -> Path:
    """Sample `index` as a video file, each of its frames shown twice."""
    sample = moving_digits.sample("test", index, frames=BUNDLED_FRAMES)
    write_h264(path, enlarged(sample.frames, 2).repeat(2, axis=0), 8)
    return path


def asked(
    model: Any, processor: Any, index: int, path: Path, tasks: Collection[str] = moving_digits.TASKS
) -> list[dict[str, str]]:
    """Questions about sample `index` that full tokens answer rightly, and what merged tokens say to them."""
    video = load_video(path, BUNDLED_FRAMES)
    questions = {
        one.text: one for one in moving_digits.sample("test", index, frames=BUNDLED_FRAMES).questions
    }
    found = []
    for question in questions.values():
        if question.task not in tasks:
            continue
        inputs = prompt(processor, video, question.text)
        if ask(model, processor, inputs, Method(retain_ratio=1)).text == question.answer:
            merged = ask(model, processor, inputs, HoliTom(RATIO)).text
            told = {"text": question.text, "answer": question.answer, "holitom": merged}
            found.append({"task": question.task} | told)
    return found


def chosen(answers: list[dict[str, str]], most: int) -> list[dict[str, str]]:
    """What is recorded: one question of a task, those that merging answers wrongly first, `most` at most."""
    by_task: dict[str, dict[str, str]] = {}
    for one in sorted(answers, key=lambda one: one["holitom"] == one["answer"]):
        by_task.setdefault(one.pop("task"), one)
    return list(by_task.values())[:most]


def look(model: Any, processor: Any, first: int, last: int) -> None:
    """Print what merging answers wrongly in samples `first..last - 1`, of the tasks that it hurts most."""
    for index in range(first, last):
        with TemporaryDirectory() as folder:
            path = render(index, Path(folder) / "sample.mp4")
            right = asked(model, processor, index, path, HURT)
        hurt = [one for one in right if one["holitom"] != one["answer"]]
        print(
            f"{index}: {len(right)} questions answered rightly, {len(hurt)} of them hurt by merging",
            flush=True,
        )
        for one in hurt:
            print(f"   {one['text']}  {one['answer']}, not {one['holitom']}", flush=True)


def record(model: Any, processor: Any, name: str) -> None:
    """Write the examples of the bundled model `name`, and the videos that are not there yet."""
    library = []
    for index, (title, most, tasks) in CHOSEN[name].items():
        path = DEMO_VIDEO if index == INDEX else FOLDER / f"digits-{index}.mp4"
        if not path.exists():
            render(index, path)
        questions = chosen(asked(model, processor, index, path, tasks), most)
        library.append({"video": str(path.relative_to(ASSETS)), "title": title, "questions": questions})
        hurt = sum(one["holitom"] != one["answer"] for one in questions)
        size = path.stat().st_size / 1024
        print(
            f"{name}, {path.name}: {size:.0f} KiB, {len(questions)} questions, {hurt} of them hurt",
            flush=True,
        )
    (FOLDER / f"{name}.json").write_text(json.dumps(library, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=CHOSEN, help="[default: all]")
    parser.add_argument(
        "--look", type=int, nargs=2, metavar=("FIRST", "LAST"), help="only print; nothing is written"
    )
    wanted = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in [wanted.model] if wanted.model else CHOSEN:
        model, processor = load_model(name, device="cpu")
        if wanted.look:
            look(model, processor, *wanted.look)
        else:
            record(model, processor, name)


if __name__ == "__main__":
    main()
