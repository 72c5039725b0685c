"""Stage 1 of the bundled model: teach the vision tower and projector what is in every cell of a frame.

Every pooled token, in the language model's own width, must name its digit, colour, shape, cell and
background, with the (frozen) word embeddings as classifiers, so that what a token shows is written in
the words that questions use. As SigLIP's image-level objective does, a second one asks for what the whole
frame holds; it is read from what the last layer's attention gathers, averaged over the frame, so that this
attention learns to look at what matters. No attention map is supervised, no token is ever dropped.

    python tools/train_vision.py --out runs/vision.pt
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tiny_llava
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from training import BF16, MasterOptimizer, cosine, write_checkpoint

from holitom.bench import moving_digits as md

NONE = {"digit": len(md.NUMBERS), "color": len(md.COLORS), "shape": len(md.SHAPES)}
WORDS = {"digit": md.NUMBERS, "color": tuple(md.COLORS), "shape": md.SHAPES}


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
    held = torch.zeros(frames, sum(NONE.values()))
    for k, base in (("digit", 0), ("color", NONE["digit"]), ("shape", NONE["digit"] + NONE["color"])):
        here = out[k] != NONE[k]
        held[here.nonzero()[:, 0], base + out[k][here]] = 1
    out["held"] = held
    return out


class Frames(Dataset):
    """Alternating crowded frames and frames as videos have them; batch `i` is a function of `i`."""

    def __init__(self, batch: int, batches: int, first: int = 0):
        self.batch, self.batches, self.first = batch, batches, first

    def __len__(self) -> int:
        return self.batches - self.first

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        start = (self.first + i) * self.batch
        made = [
            md.crowd(k, digits=4 + k % 9, flashes=k % 5) if k % 2 else md.sample("train", 10**7 + k, frames=1)
            for k in range(start, start + self.batch)
        ]
        told = [labels(m) for m in made]
        frames = torch.from_numpy(np.concatenate([m.frames for m in made]))
        return frames, {k: torch.cat([t[k] for t in told]) for k in told[0]}


def pixels(frames: Tensor) -> Tensor:
    """uint8 `[..., H, W, 3]` to the processor's bf16 `[..., 3, H, W]` in -1..1."""
    return (frames.movedim(-1, -3).to(torch.float32) / 127.5 - 1).to(BF16)


class Readout(nn.Module):
    """Linear probes on the projected, pooled tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.none = nn.ModuleDict({k: nn.Linear(width, 1) for k in NONE})
        self.scale = nn.Parameter(torch.tensor(0.15))
        self.background = nn.Linear(width, len(md.BACKGROUNDS))
        self.column, self.row = nn.Linear(width, md.GRID), nn.Linear(width, md.GRID)
        vision = tiny_llava.VISION["hidden_size"]
        self.held = nn.Sequential(nn.LayerNorm(vision), nn.Linear(vision, sum(NONE.values())))

    def forward(self, tokens: Tensor, gathered: Tensor, words: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {
            k: torch.cat([tokens @ words[k].T * self.scale, self.none[k](tokens)], -1).float() for k in NONE
        }
        for k in ("background", "column", "row"):
            out[k] = getattr(self, k)(tokens).float()
        out["held"] = self.held(gathered.mean(1)).float()
        return out


def balanced(logits: Tensor, target: Tensor, none: int) -> Tensor:
    """Cross-entropy, cells that hold something weighing as much as cells that hold nothing."""
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    some = target.flatten() != none
    return loss[some].mean() + loss[~some].mean()


def losses(out: dict[str, Tensor], told: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = {k: balanced(out[k], told[k], NONE[k]) for k in NONE}
    loss["background"] = 0.3 * F.cross_entropy(out["background"].flatten(0, 1), told["background"].flatten())
    some = (told["digit"] != NONE["digit"]) | (told["shape"] != NONE["shape"])
    cell = torch.arange(md.GRID**2).expand_as(some)[some]
    loss["place"] = 0.3 * (
        F.cross_entropy(out["column"][some], cell % md.GRID)
        + F.cross_entropy(out["row"][some], cell // md.GRID)
    )
    loss["held"] = F.binary_cross_entropy_with_logits(out["held"], told["held"])
    return loss


@torch.no_grad()
def evaluate(see, read: Readout, words: dict[str, Tensor], videos: int = 150) -> str:
    """Accuracy on frames of held-out videos: digits, colours and shapes where they are, and elsewhere."""
    hits = {k: [] for k in (*NONE, "background", "empty", "held")}
    similar, moved = [], []
    for i in range(videos):
        video = md.sample("test", 10**6 + i, frames=4)
        told = labels(video)
        tokens, gathered = see(pixels(torch.from_numpy(video.frames)))
        out = read(tokens, gathered, words)
        for k in NONE:
            some = told[k] != NONE[k]
            hits[k].append(out[k][some].argmax(-1) == told[k][some])
        none = (told["digit"] == NONE["digit"]) & (told["shape"] == NONE["shape"])
        hits["empty"].append((out["digit"].argmax(-1) == NONE["digit"])[none])
        hits["background"].append((out["background"].argmax(-1) == told["background"]).flatten())
        hits["held"].append(((out["held"] > 0) == (told["held"] > 0.5)).flatten())
        cos = F.cosine_similarity(tokens[:-1].float(), tokens[1:].float(), dim=-1)
        same = torch.from_numpy(video.scene[1:] == video.scene[:-1])[:, None] & none[1:] & none[:-1]
        similar.append(cos[same])
        moved.append(cos[none[1:] ^ none[:-1]])
    scores = {k: torch.cat(h).float().mean().item() for k, h in hits.items()}
    stats = f"cos still {torch.cat(similar).mean():.3f} changed {torch.cat(moved).mean():.3f}"
    rms = tokens.float().pow(2).mean().sqrt()
    return " ".join(f"{k}:{v:.4f}" for k, v in scores.items()) + f" | {stats} rms {rms:.2f}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--out", type=Path, default=Path("runs/vision.pt"))
    ask.add_argument("--steps", type=int, default=1000)
    ask.add_argument("--batch", type=int, default=32)
    ask.add_argument("--rate", type=float, default=2e-3)
    ask.add_argument("--threads", type=int, default=2)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)

    model = tiny_llava.build()
    read = Readout(tiny_llava.TEXT["hidden_size"])
    model.to(BF16), read.to(BF16)
    core = model.model
    core.vision_tower.config._attn_implementation = "dense"
    index = tiny_llava.tokenizer().convert_tokens_to_ids
    words = {k: core.language_model.embed_tokens.weight[index(list(w))].detach() for k, w in WORDS.items()}

    gathered: list[Tensor] = []
    core.vision_tower.encoder.layers[-1].self_attn.register_forward_hook(
        lambda module, args, out: gathered.append(out[0])
    )

    def see(x: Tensor) -> tuple[Tensor, Tensor]:
        # what get_video_features feeds the language model: the last hidden state *before* post_layernorm
        tokens = core.get_video_features(x[None]).pooler_output[0, :-1].view(len(x), md.GRID**2, -1)
        return tokens, gathered.pop()

    modules = nn.ModuleList([core.vision_tower, core.multi_modal_projector])
    named = [(n, p) for n, p in modules.named_parameters() if "post_layernorm" not in n]
    hidden = [p for n, p in named if p.ndim == 2 and "position" not in n]
    rest = [p for n, p in named if not (p.ndim == 2 and "position" not in n)] + list(read.parameters())
    optimizer = MasterOptimizer(hidden, rest)

    step = 0
    if a.out.exists():
        saved = torch.load(a.out, weights_only=False)
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        print(f"resumed at step {step}", flush=True)
    data = DataLoader(Frames(a.batch, a.steps, step), batch_size=None, num_workers=1, prefetch_factor=4)
    began, shown = time.time(), step
    sums: dict[str, float] = {}
    for frames, told in data:
        loss = losses(read(*see(pixels(frames)), words), told)
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
        if step % 250 == 0 or step == a.steps:
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
