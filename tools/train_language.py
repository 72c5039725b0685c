"""Stage 2 of the bundled model: teach the language model to answer MovingDigits-QA over the frozen tower.

One sequence holds a video once and many questions behind it, each blind to the others: the prompt that
`generate` sees, batched. The number of frames grows when the tasks are learned, from single crowded frames
on, and varies throughout, so that answers come from what tokens show rather than from absolute positions.

Linear probes on middle layers speed learning up: visual tokens must tell their scene and which way they
move, a question's colour word must tell the digit that it names, and "first" and "last" the colours of that
scene. No attention map is supervised, and neither a compression method nor token dropping is ever used.

    python tools/train_language.py --vision runs/vision.pt --out runs/language.pt
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tiny_llava
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_vision import pixels
from training import BF16, MasterOptimizer, cosine, write_checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from holitom.bench import moving_digits as md

SLOT = 16  # tokens a question and its answer may take
NO_LABEL = -100
STAGES = (
    # frames to draw from, videos a step, questions a video, mean accuracy that ends the stage;
    # no frames: single frames crowded with digits, where a colour cannot be guessed from what is around
    ((0,), 12, 16, 0.85),
    ((3, 4, 5), 12, 10, 0.75),
    ((6, 8, 10), 8, 12, 0.80),
    ((8, 12, 16, 16), 4, 16, 2.0),
)
WORDS = tiny_llava.tokenizer()
SEEING, LOOKING_UP = 2, 4  # layers whose output the probes read: of visual tokens, of the question's words
FACTS = (
    len(md.NUMBERS),
    len(md.MOTIONS),
    *[md.GRID] * 4,
)  # of a digit: what, which way, first cell, last cell


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Causal over the video, then every question sees the video and itself. `[B, H, L, d]`."""
    prefix: int = options["prefix"]
    hole: Tensor | None = options["hole"]  # `[B, 1, 1, prefix]`: minus infinity where nothing stands
    batch, heads, length, width = query.shape
    ahead = None if hole is None else hole + torch.full((prefix, prefix), -1e4, dtype=query.dtype).triu(1)
    video = F.scaled_dot_product_attention(
        query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], ahead, is_causal=ahead is None
    )
    slots = (batch, heads, (length - prefix) // SLOT, SLOT, width)
    q = query[:, :, prefix:] * options["scaling"]
    own_q, own_k, own_v = (x[:, :, prefix:].reshape(slots) for x in (query * options["scaling"], key, value))
    future = torch.full((SLOT, SLOT), -1e4, dtype=q.dtype).triu(1)
    own = (own_q @ own_k.transpose(-1, -2) + future).flatten(2, 3)
    shown = q @ key[:, :, :prefix].transpose(-1, -2)
    seen = torch.cat([shown if hole is None else shown + hole, own], -1).softmax(-1)
    past, own = seen.split([prefix, SLOT], -1)
    answers = past @ value[:, :, :prefix] + (own.reshape(*slots[:4], SLOT) @ own_v).flatten(2, 3)
    return torch.cat([video, answers], 2).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register("packed", packed_attention)


def encode(question: md.Question) -> tuple[list[int], list[int]]:
    """Token ids and labels of one slot: the question as the chat template puts it, and its answer."""
    ask = WORDS(f"{question.text}<|im_end|><|im_start|>assistant")["input_ids"]
    answer = WORDS(f"{question.answer}<|im_end|>")["input_ids"]
    pad = SLOT - len(ask) - len(answer)
    target = [NO_LABEL] * (len(ask) - 1) + answer + [NO_LABEL] * (pad + 1)
    return ask + answer + [WORDS.pad_token_id] * pad, target


def facts(question: md.Question, video: md.Sample) -> tuple[Tensor, Tensor]:
    """What a question's words should know: a digit's facts `[SLOT, 6]`, a scene's colours `[SLOT, 8]`."""
    digit = torch.full((SLOT, len(FACTS)), NO_LABEL)
    scene = torch.full((SLOT, len(md.COLORS)), float(NO_LABEL))
    colors = list(md.COLORS)
    for place, word in enumerate(WORDS.tokenize(question.text)):
        for d in video.digits:
            if word == colors[d.color]:
                still = len(d.cells) == 1
                ends = (*d.cells[0].tolist(), *d.cells[-1].tolist())
                digit[place] = torch.tensor((d.number, NO_LABEL if still else d.motion, *ends))
        if word in ("first", "last"):
            wanted = 0 if word == "first" else video.scenes - 1
            scene[place] = 0
            scene[place, [d.color for d in video.digits if d.scene == wanted]] = 1
    return digit, scene


def make_batch(
    split: md.Split, first: int, frames: int, videos: int, questions: int, weights: list[float]
) -> dict[str, Tensor]:
    """Videos `first ..` with questions drawn by task; everything is a function of the arguments."""
    rng = np.random.default_rng([41, first])
    rows: dict[str, list[Any]] = {
        k: [] for k in ("frames", "ids", "labels", "task", "scene", "way", "digit", "colors")
    }
    for i in range(first, first + videos):
        video = md.sample(split, i, frames) if frames else md.crowd(i, 3 + i % 6, flashes=1, distinct=True)
        asked: dict[str, list[md.Question]] = {}
        for q in video.questions:
            asked.setdefault(q.task, []).append(q)
        share = np.array([weights[md.TASKS.index(t)] for t in asked])
        tasks = rng.choice(list(asked), questions, p=share / share.sum())
        chosen = [asked[t][rng.integers(len(asked[t]))] for t in tasks]
        slots, known = [encode(q) for q in chosen], [facts(q, video) for q in chosen]
        way = np.full((len(video.frames), md.GRID, md.GRID), NO_LABEL)
        for d in video.digits:
            t = d.start + np.arange(1, len(d.cells))
            way[t, d.cells[1:, 1], d.cells[1:, 0]] = d.motion
        rows["frames"].append(torch.from_numpy(video.frames))
        rows["ids"].append(torch.tensor([s[0] for s in slots]).flatten())
        rows["labels"].append(torch.tensor([s[1] for s in slots]).flatten())
        rows["task"].append(torch.tensor([md.TASKS.index(t) for t in tasks]))
        rows["scene"].append(torch.from_numpy(video.scene).repeat_interleave(md.GRID**2))
        rows["way"].append(torch.from_numpy(way).flatten())
        rows["digit"].append(torch.cat([k[0] for k in known]))
        rows["colors"].append(torch.cat([k[1] for k in known]))
    return {k: torch.stack(v) for k, v in rows.items()}


def packed(tokens: Tensor, keep: Tensor, fill: float = 0) -> tuple[Tensor, Tensor]:
    """What `keep` `[B, V]` keeps of `tokens` `[B, V, ...]`, right-aligned, and `[B, 1]`: holes before it."""
    counts = keep.sum(1, keepdim=True)
    place = torch.argsort(keep.to(torch.int8), dim=1, stable=True)[:, -int(counts.max()) :]
    holes = counts.max() - counts
    index = place.reshape(*place.shape, *[1] * (tokens.ndim - 2)).expand(*place.shape, *tokens.shape[2:])
    taken = tokens.gather(1, index)
    empty = (torch.arange(place.shape[1]) < holes).reshape(*place.shape, *[1] * (tokens.ndim - 2))
    return taken.masked_fill(empty, fill), holes


class Student(nn.Module):
    """The model as training sees it: frozen eyes, packed questions, probes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_llava.build()
        width = tiny_llava.TEXT["hidden_size"]
        self.scene, self.way = nn.Linear(width, md.MAX_SCENES), nn.Linear(width, len(md.MOTIONS))
        self.digit, self.colors = nn.Linear(width, sum(FACTS)), nn.Linear(width, len(md.COLORS))
        core = self.model.model
        core.vision_tower.config._attn_implementation = "dense"
        core.language_model.config._attn_implementation = "packed"
        self.middle: dict[int, Tensor] = {}
        for index in (SEEING, LOOKING_UP):
            core.language_model.layers[index].register_forward_hook(self._keep(index))
        self.opening = torch.tensor(WORDS("<|im_start|>user")["input_ids"])

    def _keep(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            self.middle[index] = out[0] if isinstance(out, tuple) else out

        return hook

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits `[answer tokens, words]`; the probes' hidden states stay in `middle`.

        With `batch["keep"]` `[B, V]` only those visual tokens are shown, packed: their positions are
        contiguous, and what makes rows equally long stands before them, seen by nobody.
        """
        core, ids = self.model.model, batch["ids"]
        with torch.no_grad():
            seen = core.get_video_features(pixels(batch["frames"])).pooler_output
        seen = seen[:, :-1]
        embed = core.language_model.embed_tokens
        opening = embed(self.opening).expand(len(ids), -1, -1)
        first, holes, hole = len(self.opening), torch.zeros(len(ids), 1, dtype=torch.int64), None
        if "keep" in batch:
            seen, holes = packed(seen, batch["keep"])
            standing = torch.arange(seen.shape[1]) >= holes
            hole = F.pad((~standing).to(BF16) * -1e4, (first, 1))[:, None, None]
        seen = torch.cat([seen, core.image_newline.expand(len(ids), 1, -1)], 1)
        prefix = first + seen.shape[1]
        places = torch.cat([torch.arange(prefix), (prefix + torch.arange(SLOT)).repeat(ids.shape[1] // SLOT)])
        positions = torch.where(places < first, places, (places - holes).clamp(min=first))
        hidden = core.language_model(
            inputs_embeds=torch.cat([opening, seen, embed(ids)], 1),
            attention_mask={"full_attention": None},
            position_ids=positions,
            use_cache=False,
            prefix=prefix,
            hole=hole,
        ).last_hidden_state
        return self.model.lm_head(hidden[:, prefix:][batch["labels"] != NO_LABEL]).float()

    def losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Losses of the answers, scenes, ways, digits' facts and scenes' colours, weighted."""
        first, last = len(self.opening), batch["ids"].shape[1]
        visual, words = self.middle[SEEING][:, first : -last - 1], self.middle[LOOKING_UP][:, -last:]
        seen = {k: batch[k] for k in ("scene", "way")}
        if "keep" in batch:
            seen = {k: packed(v, batch["keep"], NO_LABEL)[0] for k, v in seen.items()}
        digit = self.digit(words).float().split(FACTS, -1)
        known = batch["colors"] != NO_LABEL
        return torch.stack(
            [
                F.cross_entropy(logits, batch["labels"][batch["labels"] != NO_LABEL]),
                0.2 * _cross_entropy(self.scene(visual).float(), seen["scene"]),
                0.2 * _cross_entropy(self.way(visual).float(), seen["way"]),
                sum(0.2 * _cross_entropy(d, batch["digit"][..., i]) for i, d in enumerate(digit)),
                0.5
                * F.binary_cross_entropy_with_logits(
                    self.colors(words).float()[known], batch["colors"][known], reduction="sum"
                )
                / max(1, int(known.sum())),
            ]
        )


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over what has a label; 0 where nothing has."""
    some = target != NO_LABEL
    return F.cross_entropy(logits[some], target[some], reduction="sum") / max(1, int(some.sum()))


def exact(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """`[videos, questions]`: whether every token of an answer is right."""
    asked = batch["labels"] != NO_LABEL
    right = torch.ones_like(asked)
    right[asked] = logits.argmax(-1) == batch["labels"][asked]
    return right.unflatten(1, (-1, SLOT)).all(-1)


class Tally:
    """Accuracy by task."""

    def __init__(self) -> None:
        self.right, self.asked = torch.zeros(len(md.TASKS)), torch.zeros(len(md.TASKS))

    def add(self, right: Tensor, task: Tensor) -> None:
        self.right += torch.bincount(task.flatten(), right.flatten().float(), len(md.TASKS))
        self.asked += torch.bincount(task.flatten(), minlength=len(md.TASKS))

    @property
    def accuracy(self) -> Tensor:
        return self.right / self.asked.clamp(min=1)

    @property
    def mean(self) -> float:
        """Over the tasks that were asked: short videos have one scene and no order to ask for."""
        return float(self.accuracy[self.asked > 0].mean())

    def __str__(self) -> str:
        each = " ".join(f"{t}:{a:.3f}" for t, a in zip(md.TASKS, self.accuracy.tolist(), strict=True))
        return f"mean {self.mean:.3f} {each}"


@torch.no_grad()
def evaluate(student: Student, batches: int = 8) -> Tally:
    """Held-out videos of 16 frames (not those that the benchmark asks about), answers read in parallel."""
    tally = Tally()
    for i in range(batches):
        batch = make_batch("test", 10**6 + 8 * i, 16, 8, 16, [1.0] * len(md.TASKS))
        tally.add(exact(student(batch), batch), batch["task"])
    return tally


@torch.no_grad()
def set_scale(model: Any, rms: float = 0.7) -> None:
    """Bring visual tokens to the size of word embeddings, so that neither drowns the other."""
    factor = rms / _some_tokens(model).pow(2).mean().sqrt()
    model.model.multi_modal_projector.linear_2.weight.mul_(factor)
    model.model.multi_modal_projector.linear_2.bias.mul_(factor)


@torch.no_grad()
def center(model: Any) -> None:
    """Take the average token out of the projector's bias.

    What all tokens share says nothing and makes any two of them similar: with it, the backgrounds of two
    scenes have a cosine similarity above 0.8.
    """
    bias = model.model.multi_modal_projector.linear_2.bias
    bias.sub_(_some_tokens(model).mean(0).to(bias))


def _some_tokens(model: Any, videos: int = 40) -> Tensor:
    """Visual tokens `[n, D]` of a few training videos, float32."""
    dtype = model.dtype
    shown = [md.sample("train", 2 * 10**6 + i, frames=8).frames for i in range(videos)]
    seen = [model.model.get_video_features(pixels(torch.from_numpy(s))[None].to(dtype)) for s in shown]
    return torch.cat([s.pooler_output[0, :-1] for s in seen]).float()


def optimizer_of(student: Student) -> MasterOptimizer:
    """What learns over the frozen tower: language model, newline, head, probes; Muon for hidden matrices."""
    core = student.model.model
    learned = [
        *core.language_model.named_parameters(),
        ("image_newline", core.image_newline),
        *student.model.lm_head.named_parameters(),
        *(p for n in ("scene", "way", "digit", "colors") for p in getattr(student, n).named_parameters()),
    ]
    hidden = [p for n, p in learned if n.startswith("layers") and p.ndim == 2]
    return MasterOptimizer(hidden, [p for n, p in learned if not (n.startswith("layers") and p.ndim == 2)])


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--vision", type=Path, default=Path("runs/vision.pt"))
    ask.add_argument("--out", type=Path, default=Path("runs/language.pt"))
    ask.add_argument("--steps", type=int, default=1900)
    ask.add_argument("--rate", type=float, default=1.5e-3)
    ask.add_argument("--matrix-gain", type=float, default=2.0, help="Muon's rate over AdamW's")
    ask.add_argument("--center-at", type=int, default=1000, help="the step that centres visual tokens")
    ask.add_argument("--threads", type=int, default=2)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)

    student = Student()
    student.model.load_state_dict(torch.load(a.vision, weights_only=False)["model"])
    set_scale(student.model)
    student.to(BF16)
    optimizer = optimizer_of(student)

    step, stage, made, skill = 0, 0, 0, torch.full((len(md.TASKS),), 0.3)
    if a.out.exists():
        saved = torch.load(a.out, weights_only=False)
        optimizer.load_state_dict(saved["optimizer"])
        step, stage, made, skill = (saved[k] for k in ("step", "stage", "made", "skill"))
        print(f"resumed at step {step}", flush=True)

    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:

        def order() -> Any:
            nonlocal made
            frames, videos, questions, _ = STAGES[stage]
            drawn = frames[np.random.default_rng([43, made]).integers(len(frames))]
            first, made = made, made + videos
            return pool.submit(make_batch, "train", first, drawn, videos, questions, (1.1 - skill).tolist())

        ahead = [order() for _ in range(3)]
        tally, sums, began, shown = Tally(), torch.zeros(5), time.time(), step
        while step < a.steps:
            if step == a.center_at:
                center(student.model)
            batch = ahead.pop(0).result()
            ahead.append(order())
            logits = student(batch)
            parts = student.losses(logits, batch)
            parts.sum().backward()
            norm = optimizer.step(a.rate * cosine(step, a.steps), a.matrix_gain)
            step += 1
            sums += parts.detach()
            tally.add(exact(logits.detach(), batch), batch["task"])
            if step % 50 == 0:
                skill = tally.accuracy
                seconds = (time.time() - began) / (step - shown)
                loss = " ".join(f"{x:.3f}" for x in (sums / (step - shown)).tolist())
                print(
                    f"{step} stage {stage} {seconds:.2f} s/step norm {norm:.2f} loss {loss} {tally}",
                    flush=True,
                )
                if tally.mean > STAGES[stage][3]:
                    stage += 1
                tally, sums, began, shown = Tally(), torch.zeros(5), time.time(), step
            if step % 250 == 0 or step == a.steps:
                print("  held out:", evaluate(student), flush=True)
                state = {
                    "step": step,
                    "stage": stage,
                    "made": made,
                    "skill": skill,
                    "optimizer": optimizer.state_dict(),
                    "model": optimizer.float32(student.model),
                }
                write_checkpoint(a.out, state)
                began, shown, tally, sums = time.time(), step, Tally(), torch.zeros(5)


if __name__ == "__main__":
    main()
