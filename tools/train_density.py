"""Stage 3 of the bundled model: videos of every token density.

Large models meet images and videos at many resolutions, so no circuit of theirs counts on 49 tokens a
frame. After stage 2 the small one does. Here two of three videos show only a random rectangle of each
frame's tokens, positions contiguous as ever; first and last frame of a scene and the flash show every object
of theirs, so that what is asked can still be answered. Rectangles are drawn blindly: no compression method
chooses.

    python tools/train_density.py --language src/holitom/assets/moving-digits --out runs/density.pt
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
from torch import Tensor
from train_language import Student, Tally, exact, make_batch, optimizer_of
from training import BF16, cosine, write_checkpoint
from transformers import LlavaOnevisionForConditionalGeneration

from holitom.bench import moving_digits as md

FRAMES = (6, 8, 12, 16, 16, 20)
VIDEOS, QUESTIONS = 6, 16


def rectangles(video: md.Sample, rng: np.random.Generator) -> Tensor:
    """`[F * 49]` bool: the tokens of a random rectangle in every frame, from one cell to all of them.

    How tight they are is drawn once a video, so whole videos are dense or sparse.
    """
    frames, side = len(video.frames), md.GRID
    tight = rng.uniform()
    ends = np.flatnonzero(np.diff(video.scene, prepend=-1) | np.diff(video.scene, append=-1))
    cells: list[list[Any]] = [[] for _ in range(frames)]
    for digit in video.digits:
        for t in {digit.start, digit.start + len(digit.cells) - 1}:
            cells[t].append(digit.cells[t - digit.start])
    for flash in video.flashes:
        for t in range(flash.start, flash.stop):
            cells[t].append(flash.cell)
    keep = np.zeros((frames, side, side), bool)
    for t in range(frames):
        needed = np.array(cells[t]) if cells[t] else rng.integers(0, side, (1, 2))
        (left, top), (right, bottom) = needed.min(0), needed.max(0)
        if t not in ends and rng.random() < 0.25 * tight:
            continue  # a frame that shows nothing
        spare = np.array([left, top, side - 1 - right, side - 1 - bottom])
        grown = np.rint(spare * rng.uniform(0, 1, 4) ** (0.2 + 4 * tight)).astype(int)
        left, top, right, bottom = left - grown[0], top - grown[1], right + grown[2], bottom + grown[3]
        keep[t, top : bottom + 1, left : right + 1] = True
    return torch.from_numpy(keep.reshape(-1))


def make_sparse_batch(
    first: int, frames: int, weights: list[float], split: md.Split = "train"
) -> dict[str, Tensor]:
    """As in stage 2, one batch of three whole, the others by rectangles."""
    batch = make_batch(split, first, frames, VIDEOS, QUESTIONS, weights)
    rng = np.random.default_rng([47, first])
    if (first // VIDEOS) % 3:
        shown = [rectangles(md.sample(split, i, frames), rng) for i in range(first, first + VIDEOS)]
        batch["keep"] = torch.stack(shown)
    return batch


@torch.no_grad()
def evaluate(student: Student, batches: int = 8) -> list[Tally]:
    """Held-out videos of 16 frames (not the benchmark's): whole, and by rectangles."""
    tallies = [Tally(), Tally()]
    for i in range(2 * batches):
        start = VIDEOS * (999_999 + 3 * (i // 2) + i % 2)
        batch = make_sparse_batch(start, 16, [1.0] * len(md.TASKS), "test")
        tallies["keep" in batch].add(exact(student(batch), batch), batch["task"])
    return tallies


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--language", type=Path, default=Path("src/holitom/assets/moving-digits"))
    ask.add_argument("--out", type=Path, default=Path("runs/density.pt"))
    ask.add_argument("--steps", type=int, default=1000)
    ask.add_argument("--rate", type=float, default=8e-4)
    ask.add_argument("--matrix-gain", type=float, default=2.0, help="Muon's rate over AdamW's")
    ask.add_argument("--threads", type=int, default=2)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)

    student = Student()
    start = LlavaOnevisionForConditionalGeneration.from_pretrained(a.language, dtype=torch.float32)
    student.model.load_state_dict(start.state_dict())
    student.to(BF16)
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
            first, made = made, made + VIDEOS
            return pool.submit(make_sparse_batch, first, drawn, (1.1 - skill).tolist())

        ahead = [order() for _ in range(3)]
        tallies, sums, began, shown = [Tally(), Tally()], torch.zeros(5), time.time(), step
        while step < a.steps:
            batch = ahead.pop(0).result()
            ahead.append(order())
            logits = student(batch)
            parts = student.losses(logits, batch)
            parts.sum().backward()
            norm = optimizer.step(a.rate * cosine(step, a.steps), a.matrix_gain)
            step += 1
            sums += parts.detach()
            tallies["keep" in batch].add(exact(logits.detach(), batch), batch["task"])
            if step % 50 == 0:
                skill = tallies[1].accuracy
                seconds = (time.time() - began) / (step - shown)
                loss = " ".join(f"{x:.3f}" for x in (sums / (step - shown)).tolist())
                print(f"{step} {seconds:.2f} s/step norm {norm:.2f} loss {loss}", flush=True)
                print(f"  whole {tallies[0]}\n  parts {tallies[1]}", flush=True)
                tallies, sums, began, shown = [Tally(), Tally()], torch.zeros(5), time.time(), step
            if step % 200 == 0 or step == a.steps:
                whole, parts_of = evaluate(student)
                print(f"  held out: whole {whole}\n  held out: parts {parts_of}", flush=True)
                state = {
                    "step": step,
                    "made": made,
                    "skill": skill,
                    "optimizer": optimizer.state_dict(),
                    "model": optimizer.float32(student.model),
                }
                write_checkpoint(a.out, state)
                began, shown = time.time(), step
                tallies, sums = [Tally(), Tally()], torch.zeros(5)


if __name__ == "__main__":
    main()
