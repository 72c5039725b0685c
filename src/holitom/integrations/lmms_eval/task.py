"""MovingDigits-QA as an lmms-eval task: lossless video files, questions, and scoring of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from holitom.bench import moving_digits as md
from holitom.bench.questions import FRAMES, held_out_questions

FPS = 8


def write_task(folder: Path, per_task: int) -> Path:
    """Write the bench's held-out questions for `lmms_eval --include_path folder --tasks moving_digits_qa`.

    Args:
        folder: folder of `moving_digits_qa.yaml`, `questions.jsonl` and `videos/`. The first holds the
            folder's path, so it must be written anew after moving the folder.
        per_task: number of questions of each of the seven tasks, as in `holitom bench accuracy`.

    Returns:
        The path of `moving_digits_qa.yaml`.
    """
    folder = folder.absolute()
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    items = held_out_questions(per_task)
    paths = {index: videos / f"{index:05d}.mkv" for index in sorted({item.video for item in items})}
    for index, path in paths.items():
        write_lossless(path, md.sample("test", index, FRAMES).frames)
    questions = folder / "questions.jsonl"
    with questions.open("w") as lines:
        for item in items:
            row = dict(task=item.task, video=str(paths[item.video]), question=item.text, answer=item.answer)
            lines.write(json.dumps(row) + "\n")
    template = Path(__file__).with_name("moving_digits_qa.yaml").read_text()
    task = folder / "moving_digits_qa.yaml"
    task.write_text(template.replace("test: QUESTIONS", f"test: {json.dumps(str(questions))}"))
    return task


def write_lossless(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write frames `[F, H, W, 3]` as FFV1 in RGB, which is lossless."""
    with av.open(str(path), "w", format="matroska") as out:
        stream: Any = out.add_stream("ffv1", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def score(question: dict[str, Any], answers: Sequence[str]) -> dict[str, bool | None]:
    """Score an answer by exact match, as `accuracy` and under the name of the question's task.

    The other tasks get None, since every process of `accelerate launch` has to report the same metrics.
    """
    right = answers[0].strip() == question["answer"]
    return {"accuracy": right} | {task: right if task == question["task"] else None for task in md.TASKS}


def share(right: Sequence[bool | None]) -> float:
    """Share of right answers, without None; not a number where there are none."""
    asked = [r for r in right if r is not None]
    return sum(asked) / len(asked) if asked else float("nan")
