"""What any merged model should compute, for one row: its own layers, one after another, on what is left.

The unmerged model says what embeddings, positions and further streams every column has. From then on the
family's decoder layers run on the tokens that are left, with full attention matrices and no cache.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest import mock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from holitom import MergedTokens, Method, VideoTokens
from holitom.models import adapter_for

PLAIN = 12  # an id of text in every family


@dataclass(frozen=True)
class Looks(Method):
    """Keeps everything, and shows what it saw."""

    retain_ratio: float = 1.0
    seen: list[VideoTokens] = field(default_factory=list)
    needs_importance: ClassVar[bool] = True
    needs_keys: ClassVar[bool] = True
    needs_shallow: ClassVar[bool] = True

    def merge(self, video: VideoTokens) -> MergedTokens:
        self.seen.append(video)
        return super().merge(video)


@torch.no_grad()
def videos_of(model: Any, inputs: Any) -> list[VideoTokens]:
    """What a method gets to see of the videos in `inputs`."""
    looks = Looks()
    with looks(model):
        model(**inputs)
    return looks.seen


@torch.no_grad()
def language_arguments(model: Any, inputs: Any) -> dict[str, Any]:
    """What the unmerged model hands its language model."""
    got: list[dict[str, Any]] = []
    language = adapter_for(model).language_model
    hook = language.register_forward_pre_hook(lambda m, args, kwargs: got.append(kwargs), with_kwargs=True)
    try:
        model(**inputs)
    finally:
        hook.remove()
    return got[0]


@torch.no_grad()
def attention_weights(model: Any, run: Callable[[], Any]) -> list[Tensor]:
    """The weights `[F, heads, P, P]` of the tower's attention that importance is read from.

    By the model's own eager code, one entry a call of it while `run` runs.
    """
    attention: Any = adapter_for(model).vision_attention
    code: Any = sys.modules[type(attention).__module__]
    weights: list[Tensor] = []
    eager = code.eager_attention_forward

    def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = eager(module, *args, **kwargs)
        if module is attention:
            weights.append(out[1])
        return out

    with mock.patch.object(code, "eager_attention_forward", watched):
        run()
    return weights


def extended(inputs: Any, tokens: list[int]) -> dict[str, Any]:
    """`inputs` with `tokens` of text behind them."""
    if not tokens:
        return dict(inputs)
    longer = dict(inputs)
    rows = len(inputs["input_ids"])
    more = {
        "input_ids": torch.tensor([tokens] * rows),
        "attention_mask": torch.ones(rows, len(tokens), dtype=torch.int64),
        "mm_token_type_ids": torch.zeros(rows, len(tokens), dtype=torch.int64),
    }
    for name, values in more.items():
        if name in longer:
            longer[name] = torch.cat([longer[name], values.to(longer[name].dtype)], dim=1)
    return longer


def positions_of(arguments: dict[str, Any]) -> Tensor:
    """`[axes, L]`: the positions of one row's columns."""
    ids = arguments.get("position_ids")
    columns = arguments["inputs_embeds"].shape[1]
    if ids is None:
        return torch.arange(columns)[None]
    if ids.dim() == 2:
        return ids
    return ids[-3:, 0]


def twin(model: Any, attention: str) -> Any:
    """A model of the very weights of `model` with another attention implementation and nothing attached."""
    made = TWINS.setdefault(model, {})
    if attention not in made:
        config = copy.deepcopy(model.config)
        made[attention] = (
            type(model)._from_config(config, attn_implementation=attention).to(model.dtype).eval()
        )
        made[attention].load_state_dict(model.state_dict(), assign=True)
        if hasattr(model, "tokenizer"):  # which tells frames from images
            made[attention].tokenizer = model.tokenizer
    return made[attention]


TWINS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


@dataclass
class Packed:
    """One row's tokens that are left when the language model begins.

    Attributes:
        column: `[n]`: the caller's column of each.
        hidden: `[n, D]`.
        position: `[axes, n]`.
        streams: what is added to what leaves the first layers, `[n, D]` each.
        visual: `[n]` bool.
        video: which of the prompt's videos each token is of; -1 for separators and text.
    """

    column: Tensor
    hidden: Tensor
    position: Tensor
    streams: list[Tensor]
    visual: Tensor
    video: list[int]


@torch.no_grad()
def packed(model: Any, inputs: Any, method: Method, answer: Sequence[int] = ()) -> Packed:
    """The row of `inputs`, and `answer` behind it, after the outer stage of `method`."""
    adapter = adapter_for(model)
    inputs = extended(inputs, [PLAIN] * len(answer))
    given = language_arguments(model, inputs)
    if answer:  # which may hold a placeholder's id, as text
        own = model.get_input_embeddings()(torch.tensor(answer))
        given["inputs_embeds"][0, -len(answer) :] = own
    embeds, position = given["inputs_embeds"][0], positions_of(given)
    streams = []
    if given.get("visual_pos_masks") is not None:
        streams = [stream[0] for stream in adapter.streamed(given, (1, len(embeds)))]
    holds = adapter.placeholders(inputs["input_ids"])[0]
    columns = holds.nonzero().squeeze(1).tolist()
    # Each entry: where it sorts, its column, its embedding, its streams, whether visual, of which video.
    left = [
        ((column, 0), column, embeds[column], [s[column] for s in streams], False, -1)
        for column in range(len(embeds))
        if not holds[column]
    ]
    for number, video in enumerate(videos_of(model, inputs)):
        slots = adapter.slots(video)
        own, columns = columns[:slots], columns[slots:]
        run = list(own)
        for index in range(1, slots):
            run[index] = run[index - 1] if own[index] == own[index - 1] + 1 else own[index]
        sent = adapter.send(video, method.merge(video))
        for order, slot in enumerate(sent.slot.tolist()):
            parts = []
            if streams:
                assert sent.streams is not None
                parts = list(sent.streams[order].split(embeds.shape[1]))
            separates = sent.place is not None and int(sent.place[order]) < 0
            of = -1 if separates else number
            left.append(((run[slot], order), own[slot], sent.features[order], parts, True, of))
    assert not columns
    left.sort(key=lambda entry: entry[0])
    at = torch.tensor([entry[1] for entry in left])
    own = adapter.keeps_positions or method.positions == "own"
    return Packed(
        column=at,
        hidden=torch.stack([entry[2] for entry in left]),
        position=position[:, at] if own else torch.arange(len(left))[None],
        streams=[torch.stack([entry[3][i] for entry in left]) for i in range(len(streams))],
        visual=torch.tensor([entry[4] for entry in left]),
        video=[entry[5] for entry in left],
    )


def with_some_of_each(kept: list[int], video: list[int], attention: list[float]) -> Tensor:
    """What stays of a row where a stage kept `kept`: no video of it vanishes.

    The most attended token of a video that would vanish takes the place of the least attended one that
    another video can spare.

    Args:
        kept: indices, rising.
        video: the video of each token of the row; -1: a separator.
        attention: what each was given.
    """
    chosen = set(kept)

    def foremost(of: int, among: Iterable[int]) -> list[int]:
        return sorted((i for i in among if video[i] == of), key=lambda i: -attention[i])[:1]

    for lost in sorted(set(video) - {-1} - {video[i] for i in kept}):
        held = {i for of in set(video) - {-1} for i in foremost(of, chosen)}
        spare = sorted(chosen - held, key=lambda i: attention[i])
        chosen -= set(spare[:1])
        chosen |= set(foremost(lost, range(len(video))))
    return torch.tensor(sorted(chosen), dtype=torch.int64)


@torch.no_grad()
def reference_logits(
    model: Any, inputs: Any, method: Method, answer: list[int], turns: list[int] | None = None
) -> Tensor:
    """Logits `[1 + len(answer), vocab]` after the prompt and after each token of `answer`.

    Args:
        model: the model under test. It encodes the videos with its own attention: where two tokens
            are nearly equal, the method must see its very digits.
        inputs: one unpadded row.
        method: what merges.
        answer: what was generated.
        turns: how many of the prompt's ids each turn ends with; None: it is one turn.
    """
    prompt = inputs["input_ids"].shape[1]
    row = packed(twin(model, model.config._attn_implementation), inputs, method, answer)
    adapter = adapter_for(twin(model, "eager"))  # whose layers say what they attend to
    language: Any = adapter.language_model
    scales = language.config  # a Granite has some
    hidden = row.hidden * getattr(scales, "embedding_multiplier", 1)
    position, streams, video = row.position, row.streams, row.video
    bounds = [0, *(turns or [prompt])]
    lasts = [int((row.column < end).nonzero()[-1]) for end in bounds[1:]]
    groups = [
        torch.tensor(
            [i for i in range(len(hidden)) if row.visual[i] and start <= row.column[i] < end and i != last],
            dtype=torch.int64,
        )
        for start, end, last in zip(bounds, bounds[1:], lasts, strict=False)
    ]
    holds = adapter.placeholders(inputs["input_ids"])[0].nonzero()[:, 0]
    # What each turn asks: the text behind its last placeholder; a video token that asks is its own text.
    behind = []
    for start, end, last in zip(bounds, bounds[1:], lasts, strict=False):
        own = holds[(holds >= start) & (holds < end)]
        after = int((row.column[: last + 1] > own[-1]).sum()) if len(own) else 0
        behind.append(torch.arange(1 - max(after, 1), 1))
    stages = {stage.layer: stage for stage in method.inner(len(adapter.layers))}
    weights: list[Tensor] = []

    def attend(layer: Any, states: Tensor, where: Tensor) -> Tensor:
        rotary = language.rotary_emb(states[None], where[:, None] if len(where) > 1 else where)
        if not hasattr(layer, "self_attn"):  # a recurrent layer, which nothing can be ranked by
            return layer(states[None], position_embeddings=rotary)[0]
        ahead = torch.full((len(states), len(states)), torch.finfo(states.dtype).min).triu(1)
        hook = layer.self_attn.register_forward_hook(lambda m, a, out: weights.append(out[1][0].mean(0)))
        out = layer(
            states[None], attention_mask=ahead[None, None], position_embeddings=rotary, position_ids=None
        )
        hook.remove()
        return out[0] if isinstance(out, Tensor) else out[0][0]

    for index, layer in enumerate(adapter.layers):
        if index in stages:
            dropped: set[int] = set()
            for turn, (visual, last) in enumerate(zip(groups, lasts, strict=True)):
                if not len(visual):
                    continue
                scores = weights[-1]
                if stages[index].own_attention and hasattr(layer, "self_attn"):
                    # earlier turns are merged already
                    now = torch.tensor([i for i in range(len(hidden)) if i not in dropped])
                    attend(layer, hidden[now], position[:, now])
                    scores = torch.zeros(len(hidden), len(hidden))
                    scores[now[:, None], now] = weights.pop()
                text = last + behind[turn]
                kept, features = (
                    stages[index](hidden[visual], scores[text][:, visual], hidden[text])
                    if getattr(stages[index], "needs_text", False)
                    else stages[index](hidden[visual], scores[last, visual])
                )
                hidden = hidden.index_copy(0, visual[kept], features)
                own = [video[i] for i in visual.tolist()]
                kept = with_some_of_each(kept.tolist(), own, scores[last, visual].tolist())
                dropped |= set(visual.tolist()) - set(visual[kept].tolist())
                groups[turn] = visual[kept]
            stay = torch.tensor([i for i in range(len(hidden)) if i not in dropped])
            new = {old: i for i, old in enumerate(stay.tolist())}
            hidden, position = hidden[stay], position[:, stay]
            weights[-1] = weights[-1][stay][:, stay]
            streams = [stream[stay] for stream in streams]
            video = [video[i] for i in stay.tolist()]
            groups = [torch.tensor([new[i] for i in g.tolist()], dtype=torch.int64) for g in groups]
            lasts = [new[last] for last in lasts]
        hidden = attend(layer, hidden, position)
        if index < len(streams):
            hidden = hidden + streams[index]
    logits: Tensor = adapter.model.get_output_embeddings()(language.norm(hidden))[lasts[-1] :]
    return logits * getattr(scales, "logits_scaling", 1)


@torch.no_grad()
def reference_generate(model: Any, inputs: Any, method: Method, steps: int) -> list[int]:
    """Greedy answer of `steps` tokens."""
    answer: list[int] = []
    for _ in range(steps):
        answer.append(int(reference_logits(model, inputs, method, answer)[-1].argmax()))
    return answer
