"""Render the example videos of `holitom web`, ask the bundled model about them, and record what it says.

    python tools/render_examples.py            # writes src/holitom/assets/examples/
    python tools/render_examples.py --look 30  # only prints what it says about samples 0 to 29

Each video is a held-out MovingDigits-QA sample, as in `render_demo.py`. Of its questions those are recorded
that the model answers rightly with full tokens, four at most, with what it answers under HoliTom at 10%.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from render_demo import INDEX, write_h264

from holitom import HoliTom, Method
from holitom.ask import ask, load_model, prompt
from holitom.bench import moving_digits
from holitom.bundled import ASSETS, BUNDLED_FRAMES, BUNDLED_MODEL, DEMO_VIDEO
from holitom.video import load_video

FOLDER = ASSETS / "examples"
CHOSEN = {INDEX: "Three scenes:", 1: "Four scenes:"}  # held-out sample: title
MOST = 4  # questions about one video
RATIO = 0.1


def render(index: int, path: Path) -> Path:
    """Sample `index` as a video file, each of its frames shown twice."""
    sample = moving_digits.sample("test", index, frames=BUNDLED_FRAMES, scale=2)
    write_h264(path, sample.frames.repeat(2, axis=0), 8)
    return path


def asked(model: Any, processor: Any, index: int, path: Path) -> list[dict[str, str]]:
    """Every question about sample `index`: the right answer, and what the model says with each method."""
    video = load_video(path, BUNDLED_FRAMES)
    found = []
    asked_of: Counter[str] = Counter()
    for question in moving_digits.sample("test", index, frames=BUNDLED_FRAMES).questions:
        asked_of[question.task] += 1
        if asked_of[question.task] > 1:
            continue  # one of each task will do
        inputs = prompt(processor, video, question.text)
        full, merged = (
            ask(model, processor, inputs, method).text for method in (Method(retain_ratio=1), HoliTom(RATIO))
        )
        found.append({"text": question.text, "answer": question.answer, "full": full, "holitom": merged})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--look", type=int, help="how many samples to look at; nothing is written")
    look = parser.parse_args().look
    model, processor = load_model(str(BUNDLED_MODEL), device="cpu")
    if look:
        for index in range(look):
            with TemporaryDirectory() as folder:
                answers = asked(model, processor, index, render(index, Path(folder) / "sample.mp4"))
            right = [one for one in answers if one["full"] == one["answer"]]
            hurt = [one for one in right if one["holitom"] != one["answer"]]
            print(
                f"{index}: {len(answers)} questions, {len(right)} right, {len(hurt)} of them hurt by merging"
            )
            for one in hurt:
                print(f"   {one['text']}  {one['answer']}  {one['holitom']}")
        return
    FOLDER.mkdir(exist_ok=True)
    library = []
    for index, title in CHOSEN.items():
        path = DEMO_VIDEO if index == INDEX else render(index, FOLDER / f"digits-{index}.mp4")
        right = [one for one in asked(model, processor, index, path) if one["full"] == one["answer"]]
        questions = sorted(right, key=lambda one: one["holitom"] == one["answer"])[:MOST]  # those hurt first
        library.append({"video": str(path.relative_to(ASSETS)), "title": title, "questions": questions})
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB, {len(questions)} questions")
    (FOLDER / "library.json").write_text(json.dumps(library, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
