"""Stage 3 of a bundled model: videos of every token density.

Large models meet images and videos at many resolutions, so no circuit of theirs counts on 49 tokens a
frame. After stage 2 the small one does. Here two of three videos show only a random rectangle of the tokens
of each frame (of each pair, where the tower takes two together), at the positions that the model gives what
is left; first and last frame of a scene and the flash show every object of theirs, so that what is asked can
still be answered. Rectangles are drawn blindly: no compression method chooses.

    python tools/train_density.py --model llava --language runs/language.pt --out runs/density.pt
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import NAMES
from torch import Tensor
from train_language import Batch, Student, Tally, exact, make_batch, optimizer_of, probes_of
from training import PRECISION, cosine, write_checkpoint

from holitom.bench import moving_digits as md

FRAMES = (6, 8, 12, 16, 16, 20)
VIDEOS, QUESTIONS = 6, 16


def rectangles(video: md.Sample, per_step: int, rng: np.random.Generator) -> Tensor:
    """`[S * 49]` bool: the tokens of a random rectangle in every step, from one cell to all of them.

    A step is the `per_step` frames that the tower takes together. How tight they are is drawn once a video,
    so whole videos are dense or sparse.
    """
    steps, side = -(-len(video.frames) // per_step), md.GRID
    tight = rng.uniform()
    cells: list[list[Any]] = [[] for _ in range(steps)]
    for digit in video.digits:
        for t in {digit.start, digit.start + len(digit.cells) - 1}:
            cells[t // per_step].append(digit.cells[t - digit.start])
    for flash in video.flashes:
        for t in range(flash.start, flash.stop):
            cells[t // per_step].append(flash.cell)
    keep = np.zeros((steps, side, side), bool)
    for t in range(steps):
        needed = np.array(cells[t]) if cells[t] else rng.integers(0, side, (1, 2))
        (left, top), (right, bottom) = needed.min(0), needed.max(0)
        if not cells[t] and rng.random() < 0.25 * tight:
            continue  # a step that shows nothing
        spare = np.array([left, top, side - 1 - right, side - 1 - bottom])
        grown = np.rint(spare * rng.uniform(0, 1, 4) ** (0.2 + 4 * tight)).astype(int)
        left, top, right, bottom = left - grown[0], top - grown[1], right + grown[2], bottom + grown[3]
        keep[t, top : bottom + 1, left : right + 1] = True
    return torch.from_numpy(keep.reshape(-1))


def make_sparse_batch(
    name: str, first: int, frames: int, weights: list[float], videos: int, split: md.Split = "train"
) -> tuple[Batch, bool]:
    """As in stage 2, one batch of three whole, the others by rectangles; and whether it is whole."""
    whole = (first // videos) % 3 == 0
    rng = np.random.default_rng([47, first])
    kept = None if whole else lambda video, per_step: rectangles(video, per_step, rng)
    return make_batch(name, split, first, frames, videos, QUESTIONS, weights, kept), whole


@torch.no_grad()
def evaluate(student: Student, batches: int = 8) -> tuple[Tally, Tally]:
    """Held-out videos of 16 frames (not the benchmark's): whole, and by rectangles."""
    tallies = Tally(), Tally()
    for i in range(2 * batches):
        start = VIDEOS * (999_999 + 3 * (i // 2) + i % 2)
        weights = [1.0] * len(md.TASKS)
        batch, whole = make_sparse_batch(student.name, start, 16, weights, VIDEOS, "test")
        tallies[not whole].add(exact(student(batch), batch), batch.task)
    return tallies


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--model", choices=NAMES, default="llava")
    ask.add_argument("--language", type=Path, default=Path("runs/language.pt"))
    ask.add_argument("--out", type=Path, default=Path("runs/density.pt"))
    ask.add_argument("--steps", type=int, default=1000)
    ask.add_argument("--rate", type=float, default=8e-4)
    ask.add_argument("--matrix-gain", type=float, default=2.0, help="Muon's rate over AdamW's")
    ask.add_argument("--videos", type=int, default=VIDEOS, help="a step")
    ask.add_argument("--threads", type=int, default=2)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)

    student = Student(a.model)
    learned = torch.load(a.language, weights_only=False)
    student.model.load_state_dict(learned["model"])
    student.load_state_dict(learned["probes"], strict=False)
    student.to(PRECISION)
    optimizer = optimizer_of(student)

    step, made, skill = 0, 3 * 10**6, torch.full((len(md.TASKS),), 0.3)
    if a.out.exists():
        saved = torch.load(a.out, weights_only=False)
        optimizer.load_state_dict(saved["optimizer"])
        step, made, skill = (saved[k] for k in ("step", "made", "skill"))
        print(f"resumed at step {step}", flush=True)

    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:

        def order() -> Any:
            nonlocal made
            drawn = FRAMES[np.random.default_rng([43, made]).integers(len(FRAMES))]
            first, made = made, made + a.videos
            weights = (1.1 - skill).tolist()
            return pool.submit(make_sparse_batch, a.model, first, drawn, weights, a.videos)

        ahead = [order() for _ in range(3)]
        tallies, sums, began, shown = [Tally(), Tally()], torch.zeros(5), time.time(), step
        while step < a.steps:
            batch, whole = ahead.pop(0).result()
            ahead.append(order())
            logits = student(batch)
            parts = student.losses(logits, batch)
            parts.sum().backward()
            norm = optimizer.step(a.rate * cosine(step, a.steps), a.matrix_gain)
            step += 1
            sums += parts.detach()
            tallies[not whole].add(exact(logits.detach(), batch), batch.task)
            if step % 50 == 0:
                skill = tallies[1].accuracy
                seconds = (time.time() - began) / (step - shown)
                loss = " ".join(f"{x:.3f}" for x in (sums / (step - shown)).tolist())
                print(f"{step} {seconds:.2f} s/step norm {norm:.2f} loss {loss}", flush=True)
                print(f"  whole {tallies[0]}\n  parts {tallies[1]}", flush=True)
                tallies, sums, began, shown = [Tally(), Tally()], torch.zeros(5), time.time(), step
            if step % 200 == 0 or step == a.steps:
                of_whole, of_parts = evaluate(student)
                print(f"  held out: whole {of_whole}\n  held out: parts {of_parts}", flush=True)
            if step % 50 == 0 or step == a.steps:
                state = {
                    "step": step,
                    "made": made,
                    "skill": skill,
                    "optimizer": optimizer.state_dict(),
                    "model": optimizer.float32(student.model),
                    "probes": probes_of(student),
                }
                write_checkpoint(a.out, state)
                began, shown = time.time(), step
                tallies, sums = [Tally(), Tally()], torch.zeros(5)


if __name__ == "__main__":
    main()
