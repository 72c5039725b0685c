"""What a merged model should compute, written out slowly for one row: no cache, hooks or fused attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from holitom import MergedTokens, Method, VideoTokens


@dataclass(frozen=True)
class EveryOther(Method):
    """Keeps every `step`-th token; needs no importance, so these tests do not hang on any paper."""

    step: int = 2
    layers: tuple[int, ...] = ()
    own_attention: bool = False
    text: bool = False
    needs_importance: ClassVar[bool] = False

    def merge(self, video: VideoTokens) -> MergedTokens:
        whole = super().merge(video)
        at = slice(None, None, self.step)
        return MergedTokens(
            features=whole.features[at],
            frame=whole.frame[at],
            position=whole.position[at],
            size=whole.size[at],
            segments=whole.segments,
            stages={"every other": len(whole.frame[at])},
            streams=None if whole.streams is None else whole.streams[at],
        )

    def inner(self, num_layers: int) -> tuple[Any, ...]:
        stage = DropByText if self.text else DropHalf
        return tuple(stage(layer, self.own_attention) for layer in self.layers)


@dataclass(frozen=True)
class DropHalf:
    """Keeps the more attended half, and marks it so that forgetting the new features would be seen."""

    layer: int
    own_attention: bool = False

    def keep(self, visual: int) -> int:
        return visual - visual // 2

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        kept = attention.topk(self.keep(len(hidden))).indices.sort().values
        return kept, hidden[kept] * 1.25


@dataclass(frozen=True)
class DropByText(DropHalf):
    """The same, ranked by attention and likeness of every token of the text, marked by what the text says."""

    needs_text: ClassVar[bool] = True

    def __call__(self, hidden: Tensor, attention: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert attention.shape == (len(text), len(hidden))
        seen = attention.float().mean(0) / attention.float().mean()
        alike = torch.nn.functional.cosine_similarity(text.float().mean(0), hidden.float(), dim=-1)
        kept = (seen + alike).topk(self.keep(len(hidden))).indices.sort().values
        weight = attention.sum(0)[kept, None].to(hidden.dtype)
        return kept, hidden[kept] * (1 + weight) + 0.1 * text.mean(0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


@torch.no_grad()
def reference_logits(
    model: Any, inputs: Any, method: Method, answer: list[int], turns: list[int] | None = None
) -> Tensor:
    """Logits `[1 + len(answer), vocab]` after the prompt and after each token of `answer`.

    `inputs` is one unpadded row. Inner merging asks the last token of the turn that brought a video; `turns`
    says how many of the prompt's ids each turn has ended with (None: it is one turn).
    """
    trunk = model.model
    ids = inputs["input_ids"][0].tolist()
    embeds = trunk.language_model.embed_tokens
    pictures: list[Tensor] = []
    if "pixel_values" in inputs:
        pictures = list(
            torch.cat(
                trunk.get_image_features(
                    inputs["pixel_values"],
                    inputs["image_sizes"],
                    batch_num_images=inputs.get("batch_num_images"),
                    return_dict=True,
                ).pooler_output
            )
        )
    sent: list[tuple[Tensor, list[int]]] = []
    if "pixel_values_videos" in inputs:
        pixels = inputs["pixel_values_videos"]
        pooled = trunk.get_video_features(pixels, return_dict=True).pooler_output
        for one, frames in zip(pooled, pixels, strict=True):
            features = one[:-1].view(len(frames), -1, one.shape[-1])
            side = int(features.shape[1] ** 0.5)
            importance, keys = reference_vision(model, frames)
            shallow, _ = reference_vision(model, frames, layer=0)  # round(2 layers * 5 / 26)
            video = VideoTokens(features, importance, (side, side), keys, shallow=shallow)
            merged = method.merge(video)
            stood = merged.frame * side**2 + merged.position
            sent.append((torch.cat([merged.features, one[-1:]]), [*stood.tolist(), len(one) - 1]))

    parts, videos, columns = [], iter(sent), []
    turns = turns or [len(ids)]
    visual: list[list[int]] = [[] for _ in turns]
    lasts: list[int] = []
    config = model.config
    skip = 0
    for column, token in enumerate(ids):
        if column in turns:
            lasts.append(sum(map(len, parts)) - 1)
        if token == config.video_token_id:
            if skip == 0:
                tokens, stood = next(videos)
                skip = len(one)
                start = sum(map(len, parts))
                visual[len(lasts)] += range(start, start + len(tokens))
                parts.append(tokens)
                columns += [column + place for place in stood]
            skip -= 1
            continue
        columns.append(column)
        if token == config.image_token_id:
            parts.append(pictures.pop(0)[None])
        else:
            parts.append(embeds(torch.tensor([token])))
    prompt = sum(map(len, parts))
    if answer:
        parts.append(embeds(torch.tensor(answer)))
    hidden = torch.cat(parts)
    columns += range(len(ids), len(ids) + len(answer))
    position = torch.tensor(columns) if method.positions == "own" else torch.arange(len(hidden))
    # Where each token stands now; merging takes tokens away from all three.
    lasts.append(prompt - 1)
    # What each turn asks: the text behind its last video; a video that asks is its own text.
    behind = [
        torch.arange(max([v for v in vis if v < last], default=last - 1) + 1, last + 1) - last
        for vis, last in zip(visual, lasts, strict=True)
    ]
    # Who asks is not merged away.
    groups = [
        torch.tensor([v for v in vis if v != last], dtype=torch.long)
        for vis, last in zip(visual, lasts, strict=True)
    ]
    stages = {stage.layer: stage for stage in method.inner(len(trunk.language_model.layers))}
    weights = None
    for index, layer in enumerate(trunk.language_model.layers):
        if index in stages:
            dropped: set[int] = set()
            for turn, (vis, last) in enumerate(zip(groups, lasts, strict=True)):
                if len(vis):
                    if stages[index].own_attention:  # earlier turns are merged already
                        now = torch.tensor([i for i in range(len(hidden)) if i not in dropped])
                        weights = torch.zeros(len(hidden), len(hidden))
                        weights[now[:, None], now] = attend(trunk, layer, hidden[now], position[now])[0].mean(
                            0
                        )
                    text = last + behind[turn]
                    kept, features = (
                        stages[index](hidden[vis], weights[text][:, vis], hidden[text])
                        if getattr(stages[index], "needs_text", False)
                        else stages[index](hidden[vis], weights[last, vis])
                    )
                    hidden = hidden.index_copy(0, vis[kept], features)
                    dropped |= set(vis.tolist()) - set(vis[kept].tolist())
                    groups[turn] = vis[kept]
            stay = torch.tensor([i for i in range(len(hidden)) if i not in dropped])
            new = {old: i for i, old in enumerate(stay.tolist())}
            hidden, position = hidden[stay], position[stay]
            groups = [torch.tensor([new[i] for i in vis.tolist()], dtype=torch.long) for vis in groups]
            lasts = [new[last] for last in lasts]
        scores, v = attend(trunk, layer, hidden, position)
        weights = scores.mean(0)
        hidden = hidden + layer.self_attn.o_proj((scores @ v).transpose(0, 1).flatten(1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.lm_head(trunk.language_model.norm(hidden))[lasts[-1] :]


def attend(trunk: Any, layer: Any, hidden: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Attention `[heads, L, L]` of `layer` for its input `hidden` `[L, D]`, and values `[heads, L, d]`."""
    attention = layer.self_attn
    cos, sin = trunk.language_model.rotary_emb(hidden[None], position[None])
    normed = layer.input_layernorm(hidden)
    heads = [p(normed).view(len(hidden), -1, attention.head_dim).transpose(0, 1) for p in
             (attention.q_proj, attention.k_proj, attention.v_proj)]  # fmt: skip
    q, k, v = rotate(heads[0], cos[0], sin[0]), rotate(heads[1], cos[0], sin[0]), heads[2]
    k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
    logits = (q @ k.transpose(1, 2)) * attention.head_dim**-0.5
    ahead = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
    return logits.masked_fill(ahead, float("-inf")).softmax(-1), v


@torch.no_grad()
def reference_vision(model: Any, frames: Tensor, layer: int = -1) -> tuple[Tensor, Tensor]:
    """Importance `[T, N]` and keys `[T, N, d]` of one video's `frames` `[T, C, H, W]`.

    From full attention matrices of the last layer (or of `layer`), pooled here.
    """
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    hidden = tower.embeddings(frames)
    for before in tower.encoder.layers[: layer % len(tower.encoder.layers)]:
        hidden = before(hidden, None)
    read = tower.encoder.layers[layer]
    normed = read.layer_norm1(hidden)
    attention = read.self_attn
    q, k = (p(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for p in
            (attention.q_proj, attention.k_proj))  # fmt: skip
    weights = (q.float() @ k.float().transpose(2, 3) * attention.head_dim**-0.5).softmax(-1)
    received = weights.mean(1).mean(1)
    side = int(received.shape[1] ** 0.5)

    def pool(values: Tensor) -> Tensor:
        """`[T, P, c]` to `[T, N, c]`."""
        picture = values.transpose(1, 2).unflatten(2, (side, side))
        pooled = torch.nn.functional.interpolate(picture, size=[-(-side // 2)] * 2, mode="bilinear")
        return pooled.flatten(2).transpose(1, 2)

    return pool(received[..., None])[..., 0], pool(sum(k.unbind(1)) / attention.num_heads)


@torch.no_grad()
def reference_importance(model: Any, frames: Tensor) -> Tensor:
    """Importance `[T, N]` alone."""
    return reference_vision(model, frames)[0]


@torch.no_grad()
def reference_generate(model: Any, inputs: Any, method: Method, steps: int) -> list[int]:
    """Greedy answer of `steps` tokens."""
    answer: list[int] = []
    for _ in range(steps):
        answer.append(int(reference_logits(model, inputs, method, answer)[-1].argmax()))
    return answer
