"""Stage 1 of a bundled model: teach the vision tower and projector what is in every cell of a frame.

Every pooled token, in the language model's own width, must name its digit, colour, shape, cell and
background, with the (frozen) word embeddings as classifiers, so that what a token shows is written in
the words that questions use. As SigLIP's image-level objective does, a second one asks for what the whole
frame holds; it is read from what the last layer's attention gathers, averaged over the frame, so that this
attention learns to look at what matters. No attention map is supervised, no token is ever dropped.
Where the tower takes two frames together, a token must also tell in which of them its cell holds something,
and both frames' backgrounds.

    python tools/train_vision.py --model llava --out runs/llava/vision.pt
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_llava
import tiny_qwen
import torch
import torch.nn.functional as F
from crowd import crowd
from numpy.typing import NDArray
from tiny import NAMES, Tiny, tiny, words_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from training import PRECISION, MasterOptimizer, cosine, write_checkpoint
from transformers import LlavaOnevisionForConditionalGeneration

from holitom.bench import moving_digits as md

NONE = {"digit": len(md.NUMBERS), "color": len(md.COLORS), "shape": len(md.SHAPES)}
WORDS = {"digit": md.NUMBERS, "color": tuple(md.COLORS), "shape": md.SHAPES}
NO_LABEL = -100


def labels(video: md.Sample) -> dict[str, Tensor]:
    """Per frame and cell `[F, 49]`: digit, colour and shape (the last class: none), background, place."""
    frames = len(video.frames)
    grid = {k: np.full((frames, md.GRID, md.GRID), none) for k, none in NONE.items()}
    for d in video.digits:
        t = d.start + np.arange(len(d.cells))
        grid["digit"][t, d.cells[:, 1], d.cells[:, 0]] = d.number
        grid["color"][t, d.cells[:, 1], d.cells[:, 0]] = d.color
    for f in video.flashes:
        grid["shape"][f.start : f.stop, f.cell[1], f.cell[0]] = f.shape
    out = {k: torch.from_numpy(g).flatten(1) for k, g in grid.items()}
    out["background"] = torch.from_numpy(video.background[video.scene])[:, None].expand(-1, md.GRID**2)
    out["scene"] = torch.from_numpy(video.scene)
    held = torch.zeros(frames, sum(NONE.values()))
    for k, base in (("digit", 0), ("color", NONE["digit"]), ("shape", NONE["digit"] + NONE["color"])):
        here = out[k] != NONE[k]
        held[here.nonzero()[:, 0], base + out[k][here]] = 1
    out["held"] = held
    return out


def joined(told: dict[str, Tensor], per_step: int) -> dict[str, Tensor]:
    """Labels of the steps that a tower takes `per_step` (1 or 2) frames in, from those of the frames.

    A cell has what one of the frames shows there, and no label where they show different things. `when`
    `[S, 49, per_step]` and `background` `[S, 49, per_step]` tell the frames apart.
    """
    frames = len(told["scene"])
    at = torch.arange(frames + frames % per_step).clamp(max=frames - 1).view(-1, per_step)
    out = {}
    for k, none in NONE.items():
        each = told[k][at]
        first, last = each[:, 0], each[:, -1]
        out[k] = torch.where(last == none, first, last)
        out[k][(first != last) & (first != none) & (last != none)] = NO_LABEL
    holds = (told["digit"] != NONE["digit"]) | (told["shape"] != NONE["shape"])
    out["when"] = holds[at].movedim(1, -1)
    out["background"] = told["background"][at].movedim(1, -1)
    out["scene"] = told["scene"][at]
    out["held"] = told["held"][at].amax(1)
    return out


class Frames(Dataset):
    """Alternating crowded frames and frames as videos have them; batch `i` is a function of `i`.

    Of a tower that takes two frames together, every item is two: a crowded frame twice or two of them, or
    two frames of a video behind each other.
    """

    def __init__(self, batch: int, batches: int, first: int = 0, per_step: int = 1):
        self.batch, self.batches, self.first, self.per_step = batch, batches, first, per_step

    def __len__(self) -> int:
        return self.batches - self.first

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        start = (self.first + i) * self.batch
        made = [self.item(k) for k in range(start, start + self.batch)]
        frames = torch.stack([torch.from_numpy(frames) for frames, _ in made])
        return frames, {k: torch.cat([told[k] for _, told in made]) for k in made[0][1]}

    def item(self, k: int) -> tuple[NDArray[np.uint8], dict[str, Tensor]]:
        if self.per_step == 1:
            video = _crowded(k) if k % 2 else md.sample("train", 10**7 + k, frames=1)
            return video.frames, joined(labels(video), 1)
        if k % 2:
            both = [_crowded(k), _crowded(k) if k % 4 == 1 else _crowded(k + 5 * 10**6)]
            told = [labels(each) for each in both]
            together = {name: torch.cat([each[name] for each in told]) for name in told[0]}
            return np.concatenate([each.frames for each in both]), joined(together, 2)
        video = md.sample("train", 10**7 + k, frames=2 + k // 2 % 6)
        t = int(np.random.default_rng([59, k]).integers(len(video.frames) - 1))
        told_all = labels(video)
        return video.frames[t : t + 2], joined({name: x[t : t + 2] for name, x in told_all.items()}, 2)


def _crowded(k: int) -> md.Sample:
    return crowd(k, digits=4 + k % 9, flashes=k % 5)


@torch.no_grad()
def taught(teacher: Any, frames: Tensor, when: Tensor) -> Tensor:
    """What a model of single frames makes of pairs `[B, 2, H, W, 3]`: tokens `[B, 49, D]` of what is there.

    A cell has the token of the frames in which it holds something, or of both where it never does.
    """
    tokens = tiny_llava.see(teacher, frames).tokens[:, :-1].unflatten(1, (2, -1))
    weight = torch.where(when.any(-1, keepdim=True), when, True).to(tokens).movedim(-1, 1)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1)


def likeness(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference, in parts of what is wanted; cells that stand out weigh more."""
    wanted = wanted.float()
    weight = wanted.pow(2).mean(-1)
    off = (tokens.float() - wanted).pow(2).mean(-1)
    return (off * weight).mean() / weight.pow(2).mean()


See = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From uint8 frames `[B, F, H, W, 3]` to tokens `[S, 49, D]` and what the attention gathers `[S, P, V]`."""


class Readout(nn.Module):
    """Linear probes on the projected, pooled tokens."""

    def __init__(self, model: Tiny):
        super().__init__()
        width, vision, self.per_step = model.WIDTH, model.VISION_WIDTH, model.FRAMES_PER_STEP
        self.none = nn.ModuleDict({k: nn.Linear(width, 1) for k in NONE})
        self.scale = nn.Parameter(torch.tensor(0.15))
        self.background = nn.Linear(width, len(md.BACKGROUNDS) * self.per_step)
        self.column, self.row = nn.Linear(width, md.GRID), nn.Linear(width, md.GRID)
        self.held = nn.Sequential(nn.LayerNorm(vision), nn.Linear(vision, sum(NONE.values())))
        if self.per_step > 1:
            self.when = nn.Linear(width, self.per_step)

    def forward(self, tokens: Tensor, gathered: Tensor, words: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {
            k: torch.cat([tokens @ words[k].T * self.scale, self.none[k](tokens)], -1).float() for k in NONE
        }
        for k in ("column", "row"):
            out[k] = getattr(self, k)(tokens).float()
        out["background"] = self.background(tokens).float().unflatten(-1, (self.per_step, -1))
        if self.per_step > 1:
            out["when"] = self.when(tokens).float()
        out["held"] = self.held(gathered.mean(1)).float()
        return out


def balanced(logits: Tensor, target: Tensor, none: int) -> Tensor:
    """Cross-entropy, cells that hold something weighing as much as cells that hold nothing."""
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none", ignore_index=NO_LABEL)
    known, some = target.flatten() != NO_LABEL, target.flatten() != none
    return loss[known & some].mean() + loss[~some].mean()


def losses(out: dict[str, Tensor], told: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = {k: balanced(out[k], told[k], NONE[k]) for k in NONE}
    loss["background"] = 0.3 * F.cross_entropy(out["background"].flatten(0, 2), told["background"].flatten())
    some = told["when"].any(-1)
    cell = torch.arange(md.GRID**2).expand_as(some)[some]
    loss["place"] = 0.3 * (
        F.cross_entropy(out["column"][some], cell % md.GRID)
        + F.cross_entropy(out["row"][some], cell // md.GRID)
    )
    if "when" in out:
        held = told["when"].float()
        loss["when"] = F.binary_cross_entropy_with_logits(out["when"], held, weight=1 + 4 * held)
    loss["held"] = F.binary_cross_entropy_with_logits(out["held"], told["held"])
    return loss


@torch.no_grad()
def evaluate(see: See, read: Readout, words: dict[str, Tensor], videos: int = 150) -> str:
    """Accuracy on frames of held-out videos: digits, colours and shapes where they are, and elsewhere."""
    hits: dict[str, list[Tensor]] = {k: [] for k in (*NONE, "background", "empty", "held", "when")}
    similar, moved = [], []
    for i in range(videos):
        video = md.sample("test", 10**6 + i, frames=4)
        told = joined(labels(video), read.per_step)
        tokens, gathered = see(torch.from_numpy(video.frames)[None])
        out = read(tokens, gathered, words)
        for k in NONE:
            some = (told[k] != NONE[k]) & (told[k] != NO_LABEL)
            hits[k].append(out[k][some].argmax(-1) == told[k][some])
        none = ~told["when"].any(-1)
        hits["empty"].append((out["digit"].argmax(-1) == NONE["digit"])[none])
        hits["background"].append((out["background"].argmax(-1) == told["background"]).flatten())
        hits["held"].append(((out["held"] > 0) == (told["held"] > 0.5)).flatten())
        if "when" in out:
            hits["when"].append(((out["when"] > 0) == told["when"])[~none].flatten())
        cos = F.cosine_similarity(tokens[:-1].float(), tokens[1:].float(), dim=-1)
        scene = told["scene"]
        still = (scene[1:, -1] == scene[:-1, 0])[:, None]
        similar.append(cos[still & none[1:] & none[:-1]])
        moved.append(cos[none[1:] ^ none[:-1]])
    scores = {k: torch.cat(h).float().mean().item() for k, h in hits.items() if h}
    stats = f"cos still {torch.cat(similar).mean():.3f} changed {torch.cat(moved).mean():.3f}"
    rms = tokens.float().pow(2).mean().sqrt()
    return " ".join(f"{k}:{v:.4f}" for k, v in scores.items()) + f" | {stats} rms {rms:.2f}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--model", choices=NAMES, default="llava")
    ask.add_argument("--out", type=Path, default=Path("runs/vision.pt"))
    ask.add_argument("--start", type=Path, help="the folder of a first model that a Qwen3-VL starts from")
    ask.add_argument("--steps", type=int, default=1000)
    ask.add_argument("--batch", type=int, default=32)
    ask.add_argument("--rate", type=float, default=2e-3)
    ask.add_argument("--threads", type=int, default=2)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)

    student = tiny(a.model)
    model = student.build()
    teacher = None
    if a.start:
        first = LlavaOnevisionForConditionalGeneration.from_pretrained(a.start, dtype=torch.float32)
        tiny_qwen.start_from(model, first)
        tiny_llava.fast(first)
        teacher = first.to(PRECISION)
    read = Readout(student)
    model.to(PRECISION), read.to(PRECISION)
    student.fast(model)
    index = words_of(a.model).convert_tokens_to_ids
    embed = model.model.language_model.embed_tokens.weight
    words = {k: embed[index(list(w))].detach() for k, w in WORDS.items()}

    attended: list[Tensor] = []
    student.last_attention(model).register_forward_hook(
        lambda module, args, out: attended.append(out[0] if isinstance(out, tuple) else out)
    )

    def see(frames: Tensor) -> tuple[Tensor, Tensor]:
        tokens = student.see(model, frames).tokens
        steps = len(frames) * -(-frames.shape[1] // student.FRAMES_PER_STEP)
        tokens = tokens[:, : steps // len(frames) * md.GRID**2].reshape(steps, md.GRID**2, -1)
        return tokens, attended.pop().view(steps, -1, student.VISION_WIDTH)

    named = student.eyes(model)
    hidden = [p for n, p in named if p.ndim == 2 and "pos" not in n]
    rest = [p for n, p in named if not (p.ndim == 2 and "pos" not in n)] + list(read.parameters())
    optimizer = MasterOptimizer(hidden, rest)

    step = 0
    if a.out.exists():
        saved = torch.load(a.out, weights_only=False)
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        print(f"resumed at step {step}", flush=True)
    frames_of = Frames(a.batch, a.steps, step, student.FRAMES_PER_STEP)
    data = DataLoader(frames_of, batch_size=None, num_workers=1, prefetch_factor=4)
    began, shown = time.time(), step
    sums: dict[str, float] = {}
    for frames, told in data:
        tokens, gathered = see(frames)
        loss = losses(read(tokens, gathered, words), told)
        if teacher is not None:
            loss["taught"] = likeness(tokens, taught(teacher, frames, told["when"]))
        sum(loss.values()).backward()
        norm = optimizer.step(a.rate * cosine(step, a.steps))
        step += 1
        for k, v in loss.items():
            sums[k] = sums.get(k, 0.0) + v.item()
        if step % 50 == 0:
            speed = (step - shown) * a.batch / (time.time() - began)
            print(
                f"{step} {speed:.0f} frames/s norm {norm:.2f}",
                {k: round(v / (step - shown), 3) for k, v in sums.items()},
                flush=True,
            )
            began, shown, sums = time.time(), step, {}
        if step % 100 == 0 or step == a.steps:
            print("  held out:", evaluate(see, read, words), flush=True)
            state = {
                "step": step,
                "optimizer": optimizer.state_dict(),
                "model": optimizer.float32(model),
                "read": read.state_dict(),
            }
            write_checkpoint(a.out, state)
            began = time.time()


if __name__ == "__main__":
    main()
