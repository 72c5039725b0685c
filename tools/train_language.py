"""Stage 2 of a bundled model: teach the language model to answer MovingDigits-QA over the frozen tower.

One sequence holds a video once and many questions behind it, each blind to the others: the prompt that
`generate` sees, batched. The number of frames grows when the tasks are learned, from single crowded frames
on, and varies throughout, so that answers come from what tokens show rather than from absolute positions.

Linear probes on middle layers speed learning up: visual tokens must tell their scene and which way they
move, a question's colour word must tell the digit that it names, and "first" and "last" the colours of that
scene. No attention map is supervised, and neither a compression method nor token dropping is ever used.

    python tools/train_language.py --model llava --vision runs/vision.pt --out runs/language.pt
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from crowd import crowd
from tiny import NAMES, Seen, tiny, words_of
from torch import Tensor, nn
from train_vision import NO_LABEL
from training import PRECISION, MasterOptimizer, cosine, write_checkpoint
from transformers import PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from holitom.bench import moving_digits as md

SLOT = 16  # tokens a question and its answer may take
STAGES = (
    # frames to draw from, videos a step, questions a video, mean accuracy that ends the stage;
    # no frames: single frames crowded with digits, where a colour cannot be guessed from what is around
    ((0,), 12, 16, 0.85),
    ((3, 4, 5), 12, 10, 0.75),
    ((6, 8, 10), 8, 12, 0.80),
    ((8, 12, 16, 16), 4, 16, 2.0),
)
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


def encode(words: PreTrainedTokenizerFast, question: md.Question) -> tuple[list[int], list[int]]:
    """Token ids and labels of one slot: the question as the chat template puts it, and its answer."""
    ask = words(f"{question.text}<|im_end|><|im_start|>assistant")["input_ids"]
    answer = words(f"{question.answer}<|im_end|>")["input_ids"]
    pad = SLOT - len(ask) - len(answer)
    target = [NO_LABEL] * (len(ask) - 1) + answer + [NO_LABEL] * (pad + 1)
    return ask + answer + [words.pad_token_id] * pad, target


def facts(words: PreTrainedTokenizerFast, question: md.Question, video: md.Sample) -> tuple[Tensor, Tensor]:
    """What a question's words should know: a digit's facts `[SLOT, 6]`, a scene's colours `[SLOT, 8]`."""
    digit = torch.full((SLOT, len(FACTS)), NO_LABEL)
    scene = torch.full((SLOT, len(md.COLORS)), float(NO_LABEL))
    colors = list(md.COLORS)
    for place, word in enumerate(words.tokenize(question.text)):
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


class Batch(NamedTuple):
    """Videos with their questions, one video a row.

    Attributes:
        frames: `[B, F, H, W, 3]` uint8.
        prefix, shown, positions: `[B, P]`, `[B, P]` and `[axes, B, P]`: `Layout`s, aligned on the right.
        stands: `[B, P]` bool: False before a shorter row begins.
        ids, labels: `[B, Q * SLOT]` of the questions' slots.
        task: `[B, Q]`.
        scene, way: `[B, P]`: what a visual token should know.
        digit, colors: `[B, Q * SLOT, ...]`: what a question's words should know.
    """

    frames: Tensor
    prefix: Tensor
    shown: Tensor
    positions: Tensor
    stands: Tensor
    ids: Tensor
    labels: Tensor
    task: Tensor
    scene: Tensor
    way: Tensor
    digit: Tensor
    colors: Tensor


Kept = Callable[[md.Sample, int], Tensor]
"""From a video and the frames that are taken together to `[V]` bool: which visual tokens are shown."""


def make_batch(
    name: str,
    split: md.Split,
    first: int,
    frames: int,
    videos: int,
    questions: int,
    weights: list[float],
    kept: Kept | None = None,
) -> Batch:
    """Videos `first ..` with questions drawn by task; everything is a function of the arguments."""
    rng = np.random.default_rng([41, first])
    clock = np.random.default_rng([61, first])
    model, words = tiny(name), words_of(name)
    rows: dict[str, list[Tensor]] = {k: [] for k in Batch._fields}
    for i in range(first, first + videos):
        video = md.sample(split, i, frames) if frames else crowd(i, 3 + i % 6, flashes=1, distinct=True)
        asked: dict[str, list[md.Question]] = {}
        for q in video.questions:
            asked.setdefault(q.task, []).append(q)
        share = np.array([weights[md.TASKS.index(t)] for t in asked])
        tasks = rng.choice(list(asked), questions, p=share / share.sum())
        chosen = [asked[t][rng.integers(len(asked[t]))] for t in tasks]
        slots, known = [encode(words, q) for q in chosen], [facts(words, q, video) for q in chosen]
        if i == first:
            times = _times(clock, len(video.frames))
        layout = model.layout(words, times)
        shown = torch.tensor(layout.shown)
        scene, way = known_of_tokens(video, model.FRAMES_PER_STEP)
        stays = torch.ones(len(shown), dtype=torch.bool)
        if kept is not None:
            keep = kept(video, model.FRAMES_PER_STEP)
            stays = (shown < 0) | F.pad(keep, (0, int(shown.max()) + 1 - len(keep)), value=True)[shown]
        count = int(stays.sum())
        places = torch.arange(count)[None] if layout.positions is None else layout.positions[:, stays]
        shown = shown[stays]
        of_token = torch.stack([F.pad(x, (0, 2), value=NO_LABEL) for x in (scene, way)])
        rows["frames"].append(torch.from_numpy(video.frames))
        rows["prefix"].append(torch.tensor(layout.ids)[stays])
        rows["shown"].append(shown)
        rows["positions"].append(places)
        rows["stands"].append(torch.ones(count, dtype=torch.bool))
        rows["ids"].append(torch.tensor([s[0] for s in slots]).flatten())
        rows["labels"].append(torch.tensor([s[1] for s in slots]).flatten())
        rows["task"].append(torch.tensor([md.TASKS.index(t) for t in tasks]))
        for label, told in zip(("scene", "way"), of_token[:, shown], strict=True):
            rows[label].append(told)
        rows["digit"].append(torch.cat([k[0] for k in known]))
        rows["colors"].append(torch.cat([k[1] for k in known]))
    fill = {"prefix": words.pad_token_id, "shown": -1, "scene": NO_LABEL, "way": NO_LABEL}
    for k in ("prefix", "shown", "positions", "stands", "scene", "way"):
        longest = max(x.shape[-1] for x in rows[k])
        rows[k] = [F.pad(x, (longest - x.shape[-1], 0), value=fill.get(k, 0)) for x in rows[k]]
    return Batch(**{k: torch.stack(v, 1 if k == "positions" else 0) for k, v in rows.items()})


def _times(rng: np.random.Generator, frames: int) -> list[float]:
    """When the frames are shown, in seconds: half to thirty a second, from the start or from later on."""
    rate = float(np.exp(rng.uniform(np.log(0.5), np.log(30))))
    start = float(rng.choice([0.0, rng.uniform(0, 100)]))
    return [start + t / rate for t in range(frames)]


def known_of_tokens(video: md.Sample, per_step: int) -> tuple[Tensor, Tensor]:
    """Each visual token's scene and which way what it shows has moved, `[S * 49]`.

    Of a token of two frames: no label where they are of different scenes; the way of what moved last.
    """
    way = np.full((len(video.frames), md.GRID, md.GRID), NO_LABEL)
    for d in video.digits:
        t = d.start + np.arange(1, len(d.cells))
        way[t, d.cells[1:, 1], d.cells[1:, 0]] = d.motion
    at = np.arange(len(way) + len(way) % per_step).clip(max=len(way) - 1).reshape(-1, per_step)
    ways, scenes = way[at].reshape(len(at), per_step, -1), video.scene[at]
    both = np.where(ways[:, -1] == NO_LABEL, ways[:, 0], ways[:, -1])
    scene = np.where(scenes[:, 0] == scenes[:, -1], scenes[:, 0], NO_LABEL)
    return torch.from_numpy(scene).repeat_interleave(md.GRID**2), torch.from_numpy(both).flatten()


class Student(nn.Module):
    """The model as training sees it: frozen eyes, packed questions, probes."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.tiny = name, tiny(name)
        self.model = self.tiny.build()
        width = self.tiny.WIDTH
        self.scene, self.way = nn.Linear(width, md.MAX_SCENES), nn.Linear(width, len(md.MOTIONS))
        self.digit, self.colors = nn.Linear(width, sum(FACTS)), nn.Linear(width, len(md.COLORS))
        core = self.model.model
        self.tiny.fast(self.model)
        core.language_model.config._attn_implementation = "packed"
        self.middle: dict[int, Tensor] = {}
        for index in (SEEING, LOOKING_UP):
            core.language_model.layers[index].register_forward_hook(self._keep(index))

    def _keep(self, index: int) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            self.middle[index] = out[0] if isinstance(out, tuple) else out

        return hook

    def forward(self, batch: Batch) -> Tensor:
        """Logits `[answer tokens, words]`; the probes' hidden states stay in `middle`.

        Where a row is shorter than the longest, what makes it as long stands before it, seen by nobody.
        """
        core, length = self.model.model, batch.shown.shape[1] + batch.ids.shape[1]
        with torch.no_grad():
            seen: Seen = self.tiny.see(self.model, batch.frames)
        embed, at = core.language_model.embed_tokens, batch.shown.clamp(min=0)[..., None]
        visual = seen.tokens.gather(1, at.expand(-1, -1, seen.tokens.shape[-1]))
        prefix = torch.where((batch.shown >= 0)[..., None], visual, embed(batch.prefix))
        after = batch.positions[:, :, -1:] + 1 + torch.arange(SLOT).repeat(batch.ids.shape[1] // SLOT)
        holes = None if batch.stands.all() else ((~batch.stands).to(PRECISION) * -1e4)[:, None, None]
        hidden = core.language_model(
            inputs_embeds=torch.cat([prefix, embed(batch.ids)], 1),
            attention_mask={"full_attention": None},
            position_ids=self.tiny.placed(torch.cat([batch.positions, after], 2)),
            use_cache=False,
            prefix=batch.shown.shape[1],
            hole=holes,
            **self.tiny.streams(seen.deep, batch.shown, length),
        ).last_hidden_state
        return self.model.lm_head(hidden[:, batch.shown.shape[1] :][batch.labels != NO_LABEL]).float()

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Losses of the answers, scenes, ways, digits' facts and scenes' colours, weighted."""
        prefix = batch.shown.shape[1]
        visual, words = self.middle[SEEING][:, :prefix], self.middle[LOOKING_UP][:, prefix:]
        digit = self.digit(words).float().split(FACTS, -1)
        known = batch.colors != NO_LABEL
        return torch.stack(
            [
                F.cross_entropy(logits, batch.labels[batch.labels != NO_LABEL]),
                0.2 * _cross_entropy(self.scene(visual).float(), batch.scene),
                0.2 * _cross_entropy(self.way(visual).float(), batch.way),
                sum(0.2 * _cross_entropy(d, batch.digit[..., i]) for i, d in enumerate(digit)),
                0.5
                * F.binary_cross_entropy_with_logits(
                    self.colors(words).float()[known], batch.colors[known], reduction="sum"
                )
                / max(1, int(known.sum())),
            ]
        )


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over what has a label; 0 where nothing has."""
    some = target != NO_LABEL
    return F.cross_entropy(logits[some], target[some], reduction="sum") / max(1, int(some.sum()))


def exact(logits: Tensor, batch: Batch) -> Tensor:
    """`[videos, questions]`: whether every token of an answer is right."""
    asked = batch.labels != NO_LABEL
    right = torch.ones_like(asked)
    right[asked] = logits.argmax(-1) == batch.labels[asked]
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
        batch = make_batch(student.name, "test", 10**6 + 8 * i, 16, 8, 16, [1.0] * len(md.TASKS))
        tally.add(exact(student(batch), batch), batch.task)
    return tally


@torch.no_grad()
def set_scale(student: Student, rms: float = 0.7) -> None:
    """Bring visual tokens to the size of word embeddings, so that neither drowns the other."""
    factor = rms / _some_tokens(student).pow(2).mean().sqrt()
    last = student.tiny.last_linear(student.model)
    last.weight.mul_(factor)
    last.bias.mul_(factor)


@torch.no_grad()
def center(student: Student) -> None:
    """Take the average token out of the projector's bias.

    What all tokens share says nothing and makes any two of them similar: with it, the backgrounds of two
    scenes have a cosine similarity above 0.8.
    """
    bias = student.tiny.last_linear(student.model).bias
    bias.sub_(_some_tokens(student).mean(0).to(bias))


def _some_tokens(student: Student, videos: int = 40) -> Tensor:
    """Visual tokens `[n, D]` of a few training videos, float32."""
    shown = [md.sample("train", 2 * 10**6 + i, frames=8).frames for i in range(videos)]
    seen = [student.tiny.see(student.model, torch.from_numpy(s)[None]).tokens[0] for s in shown]
    return torch.cat([s[: len(s) // md.GRID**2 * md.GRID**2] for s in seen]).float()


def probes_of(student: Student) -> dict[str, Tensor]:
    """The probes' parameters, for a later stage to go on with."""
    return {n: p.float() for n, p in student.state_dict().items() if not n.startswith("model.")}


def optimizer_of(student: Student) -> MasterOptimizer:
    """What learns over the frozen tower; Muon for hidden matrices."""
    learned = [
        *student.tiny.mouth(student.model),
        *(p for n in ("scene", "way", "digit", "colors") for p in getattr(student, n).named_parameters()),
    ]
    hidden = [p for n, p in learned if n.startswith("layers") and p.ndim == 2]
    return MasterOptimizer(hidden, [p for n, p in learned if not (n.startswith("layers") and p.ndim == 2)])


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--model", choices=NAMES, default="llava")
    ask.add_argument("--vision", type=Path, default=Path("runs/vision.pt"))
    ask.add_argument("--out", type=Path, default=Path("runs/language.pt"))
    ask.add_argument("--steps", type=int, default=1900)
    ask.add_argument("--rate", type=float, default=1.5e-3)
    ask.add_argument("--matrix-gain", type=float, default=2.0, help="Muon's rate over AdamW's")
    ask.add_argument("--center-at", type=int, default=1000, help="the step that centres visual tokens")
    ask.add_argument("--stage", type=int, default=0, help="where to begin in STAGES")
    ask.add_argument("--videos", type=float, default=1.0, help="parts of the usual number of videos a step")
    ask.add_argument(
        "--warm", action="store_true", help="the language model starts from one that knows such tokens"
    )
    ask.add_argument("--threads", type=int, default=2)
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)

    student = Student(a.model)
    student.model.load_state_dict(torch.load(a.vision, weights_only=False)["model"])
    if not a.warm:
        set_scale(student)
    student.to(PRECISION)
    optimizer = optimizer_of(student)

    step, stage, made, skill = 0, a.stage, 0, torch.full((len(md.TASKS),), 0.3)
    if a.out.exists():
        saved = torch.load(a.out, weights_only=False)
        optimizer.load_state_dict(saved["optimizer"])
        step, stage, made, skill = (saved[k] for k in ("step", "stage", "made", "skill"))
        print(f"resumed at step {step}", flush=True)

    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:

        def order() -> Any:
            nonlocal made
            frames, videos, questions, _ = STAGES[stage]
            videos = max(1, round(a.videos * videos))
            drawn = frames[np.random.default_rng([43, made]).integers(len(frames))]
            first, made = made, made + videos
            return pool.submit(
                make_batch, a.model, "train", first, drawn, videos, questions, (1.1 - skill).tolist()
            )

        ahead = [order() for _ in range(3)]
        tally, sums, began, shown = Tally(), torch.zeros(5), time.time(), step
        while step < a.steps:
            if step == a.center_at and not a.warm:
                center(student)
            batch = ahead.pop(0).result()
            ahead.append(order())
            logits = student(batch)
            parts = student.losses(logits, batch)
            parts.sum().backward()
            norm = optimizer.step(a.rate * cosine(step, a.steps), a.matrix_gain)
            step += 1
            sums += parts.detach()
            tally.add(exact(logits.detach(), batch), batch.task)
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
            if step % 50 == 0 or step == a.steps:
                state = {
                    "step": step,
                    "stage": stage,
                    "made": made,
                    "skill": skill,
                    "optimizer": optimizer.state_dict(),
                    "model": optimizer.float32(student.model),
                    "probes": probes_of(student),
                }
                write_checkpoint(a.out, state)
                began, shown, tally, sums = time.time(), step, Tally(), torch.zeros(5)


if __name__ == "__main__":
    main()
