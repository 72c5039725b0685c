"""The architecture of a tiny Qwen3-VL: the stock classes at about 6M parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny_llava
import torch
import torch.nn.functional as F
from tiny import Layout, Seen, alike_heads, initialise_text, sincos, word_tokenizer
from tokenizers import Regex
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from holitom.bench import moving_digits as md

NAME = "tiny Qwen3-VL"
PATCH = md.CELL // 2  # 14 x 14 patches a frame, merged 2 x 2 to one token a cell
FRAMES_PER_STEP = 2
WIDTH, VISION_WIDTH = 192, 128
VISION = dict(
    depth=4,
    hidden_size=VISION_WIDTH,
    intermediate_size=512,
    num_heads=4,
    patch_size=PATCH,
    temporal_patch_size=FRAMES_PER_STEP,
    spatial_merge_size=2,
    out_hidden_size=WIDTH,
    num_position_embeddings=(md.SIDE // PATCH) ** 2,
    deepstack_visual_indexes=[1, 2],
)
TEXT = dict(
    hidden_size=WIDTH,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=64,
)
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<unk>"),
)
TIME_WORDS = (*"0123456789", "<", ">", "seconds")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word and one a numeral's digit, as in Qwen's; case ignored, punctuation apart."""
    special = [word for word in SPECIAL if word not in ("<|endoftext|>", "<|im_end|>", "<unk>")]
    return word_tokenizer(SPECIAL, TIME_WORDS, Regex(r"\d|[^\W\d]+|[^\w\s]"), special)


def processor() -> Qwen3VLProcessor:
    """The stock processor; frames keep their shape and are shrunk to the area of 112 x 112 pixels."""
    area = md.SIDE**2
    pixels: dict[str, Any] = dict(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": area, "longest_edge": area}, **pixels),
        # the cap a frame is at least 1.05 of the shortest edge, whatever the number of frames
        video_processor=Qwen3VLVideoProcessor(
            size={"shortest_edge": int(area / 1.05) + 1, "longest_edge": 16 * area},
            cap_pixels_per_frame=True,
            max_video_tokens=md.GRID**2,
            **pixels,
        ),
        tokenizer=tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def build(seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """A fresh model, initialised so that a small residual stream carries visual tokens well."""
    words = tokenizer()
    index = words.convert_tokens_to_ids
    text = TEXT | dict(
        vocab_size=len(words),
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e5,
            "mrope_section": [12, 10, 10],
            "mrope_interleaved": True,
        },
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    config = Qwen3VLConfig(
        vision_config=dict(VISION),
        text_config=text,
        image_token_id=index("<|image_pad|>"),
        video_token_id=index("<|video_pad|>"),
        vision_start_token_id=index("<|vision_start|>"),
        vision_end_token_id=index("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: Qwen3VLForConditionalGeneration) -> None:
    tower, text = model.model.visual, model.model.language_model
    width, heads = VISION_WIDTH, VISION["num_heads"]
    for name, weight in tower.named_parameters():
        if weight.ndim >= 2 and "pos_embed" not in name:
            deep = name.startswith("blocks") and ("attn.proj" in name or "linear_fc2" in name)
            weight.normal_(0, (0.5 if deep else 1.0) * weight[0].numel() ** -0.5)
    rows = sincos(md.SIDE // PATCH, width)
    tower.pos_embed.weight.copy_(0.7 * rows)
    for block in tower.blocks:
        query, key, _ = block.attn.qkv.weight.chunk(3)
        for weight, first in zip((query, key), alike_heads(width, heads), strict=True):
            weight.copy_(first)
    for merger in tower.deepstack_merger_list:
        merger.linear_fc2.weight.mul_(0.05)  # what a token is comes first, what earlier layers saw is learned
    initialise_text(text, TEXT["num_attention_heads"] * TEXT["head_dim"])
    model.lm_head.weight.normal_(0, WIDTH**-0.5)


# --- what training needs ------------------------------------------------------------------------------


def fast(model: Qwen3VLForConditionalGeneration) -> None:
    """Make the tower's frames, all of one size, attend in one batch; the sums are the stock class's."""
    for block in model.model.visual.blocks:
        block.attn.forward = _Together(block.attn)
    embed = model.model.visual.patch_embed
    embed.forward = lambda x: F.linear(
        x.to(embed.proj.weight.dtype), embed.proj.weight.flatten(1), embed.proj.bias
    )


class _Together:
    """The forward of a tower's attention over frames of equally many patches."""

    def __init__(self, attention: nn.Module) -> None:
        self.attention: Any = attention

    def __call__(
        self, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Any, **options: Any
    ) -> Tensor:
        own, frames = self.attention, len(cu_seqlens) - 1
        heads = own.qkv(hidden_states).unflatten(-1, (3, own.num_heads, -1))
        query, key, value = heads.unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (x.unflatten(0, (frames, -1)).transpose(1, 2) for x in (query, key, value))
        seen = ((query * own.scaling) @ key.transpose(-1, -2)).softmax(-1) @ value
        out: Tensor = own.proj(seen.transpose(1, 2).flatten(2).flatten(0, 1))
        return out


def eyes(model: Qwen3VLForConditionalGeneration) -> list[tuple[str, nn.Parameter]]:
    """What stage 1 trains: the tower and the merger."""
    named = model.model.visual.named_parameters()
    return [(name, weight) for name, weight in named if "deepstack" not in name]


def mouth(model: Qwen3VLForConditionalGeneration) -> list[tuple[str, nn.Parameter]]:
    """What later stages train: the language model, and what DeepStack hands it."""
    return [
        *model.model.language_model.named_parameters(),
        *model.lm_head.named_parameters(),
        *((f"layers.{n}", p) for n, p in model.model.visual.deepstack_merger_list.named_parameters()),
    ]


def last_attention(model: Qwen3VLForConditionalGeneration) -> nn.Module:
    attention: nn.Module = model.model.visual.blocks[-1].attn
    return attention


def last_linear(model: Qwen3VLForConditionalGeneration) -> nn.Linear:
    """The layer that visual tokens come out of."""
    linear: nn.Linear = model.model.visual.merger.linear_fc2
    return linear


def see(model: Qwen3VLForConditionalGeneration, frames: Tensor) -> Seen:
    """Tokens `[B, S * 49, 192]` of uint8 frames `[B, F, 112, 112, 3]`; an odd last frame is shown twice."""
    core = model.model
    pixels, steps = patches(frames)
    grid = torch.tensor([[steps, md.SIDE // PATCH, md.SIDE // PATCH]] * len(frames))
    kept: list[Tensor] = []
    hooks = [
        merger.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        for merger in core.visual.deepstack_merger_list
    ]
    features = core.get_video_features(pixels, grid).pooler_output
    for hook in hooks:
        hook.remove()
    # the mergers again: their inputs are frozen in later stages, and they are not
    with torch.enable_grad():
        deep = [
            merger(x.detach()).view(len(frames), steps * md.GRID**2, -1)
            for merger, x in zip(core.visual.deepstack_merger_list, kept, strict=True)
        ]
    return Seen(torch.stack(list(features)), deep)


def patches(frames: Tensor) -> tuple[Tensor, int]:
    """The processor's `pixel_values_videos` of frames `[B, F, 112, 112, 3]`, and steps a video."""
    if frames.shape[1] % 2:
        frames = torch.cat([frames, frames[:, -1:]], 1)
    batch, count = frames.shape[:2]
    steps, side = count // 2, md.GRID
    x = frames.view(batch, steps, 2, side, 2, PATCH, side, 2, PATCH, 3)
    x = x.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(batch * steps * side * side * 4, -1)
    return x.to(torch.float32) / 127.5 - 1, steps


def layout(words: PreTrainedTokenizerFast, times: Sequence[float]) -> Layout:
    """The prompt up to the question, for frames shown at `times` (seconds)."""
    times = [*times, *times[-1:]] if len(times) % 2 else list(times)
    mark = {word: words.convert_tokens_to_ids(word) for word in SPECIAL}
    ids = words("<|im_start|>user<|vision_start|>")["input_ids"]
    shown, axes = [-1] * len(ids), [[i] * 3 for i in range(len(ids))]
    at = len(ids)
    rows, columns = torch.arange(md.GRID**2) // md.GRID, torch.arange(md.GRID**2) % md.GRID
    for step, (first, second) in enumerate(zip(times[::2], times[1::2], strict=True)):
        stamp = words(f"<{(first + second) / 2:.1f} seconds><|vision_start|>")["input_ids"]
        axes += [[at + i] * 3 for i in range(len(stamp))]
        at += len(stamp)
        axes += torch.stack([torch.full_like(rows, at), at + rows, at + columns], 1).tolist()
        at += md.GRID
        axes += [[at] * 3]
        at += 1
        ids += stamp + [mark["<|video_pad|>"]] * md.GRID**2 + [mark["<|vision_end|>"]]
        start = step * md.GRID**2
        shown += [-1] * len(stamp) + list(range(start, start + md.GRID**2)) + [-1]
    return Layout([*ids, mark["<|vision_end|>"]], [*shown, -1], torch.tensor([*axes, [at] * 3]).T)


def placed(positions: Tensor) -> Tensor:
    """Positions `[3, B, L]` as the language model takes them."""
    return positions


def streams(deep: list[Tensor], shown: Tensor, length: int) -> dict[str, Any]:
    """DeepStack's features at the visual tokens of prefixes `shown` `[B, P]` in rows of `length` tokens."""
    stands = F.pad(shown >= 0, (0, length - shown.shape[1]))
    at = shown.clamp(min=0)[..., None]
    embeds = [x.gather(1, at.expand(-1, -1, x.shape[-1]))[shown >= 0] for x in deep]
    return {"visual_pos_masks": stands, "deepstack_visual_embeds": embeds}


def save(model: Qwen3VLForConditionalGeneration, folder: Path) -> None:
    """Write the checkpoint folder that plain `from_pretrained` loads: model, processor, tokenizer."""
    model.save_pretrained(folder)
    processor().save_pretrained(folder)


# --- a warm start --------------------------------------------------------------------------------------


@torch.no_grad()
def start_from(model: Qwen3VLForConditionalGeneration, first: LlavaOnevisionForConditionalGeneration) -> None:
    """Take over what fits of the first bundled model: its tower, and its language model but for positions.

    Qwen3-VL's own tower starts from SigLIP 2 and its language model from Qwen3. Each of two frames gives
    half of a patch; heads of 48 become heads of 64, 24 of whose 32 rotated pairs are the old ones; what
    queries and keys are scaled to is measured on a training video. The mergers start afresh.
    """
    old, new = first.model.vision_tower, model.model.visual
    half = old.embeddings.patch_embedding.weight[:, :, None] / 2
    new.patch_embed.proj.weight.copy_(torch.cat([half, half], 2))
    new.patch_embed.proj.weight.add_(0.1 * half.std() * torch.randn_like(new.patch_embed.proj.weight))
    new.patch_embed.proj.bias.copy_(old.embeddings.patch_embedding.bias)
    new.pos_embed.weight.copy_(old.embeddings.position_embedding.weight)
    for block, layer in zip(new.blocks, old.encoder.layers, strict=True):
        parts = [getattr(layer.self_attn, f"{k}_proj") for k in "qkv"]
        block.attn.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
        block.attn.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
        block.attn.proj.load_state_dict(layer.self_attn.out_proj.state_dict())
        block.norm1.load_state_dict(layer.layer_norm1.state_dict())
        block.norm2.load_state_dict(layer.layer_norm2.state_dict())
        block.mlp.linear_fc1.load_state_dict(layer.mlp.fc1.state_dict())
        block.mlp.linear_fc2.load_state_dict(layer.mlp.fc2.state_dict())
    _take_language(model, first)


@torch.no_grad()
def _take_language(
    model: Qwen3VLForConditionalGeneration, first: LlavaOnevisionForConditionalGeneration
) -> None:
    old, new = first.model.language_model, model.model.language_model
    known, words = tiny_llava.tokenizer().get_vocab(), tokenizer().get_vocab()
    rows = [(words[w], i) for w, i in known.items() if w in words and "unused" not in w]
    to, of = (torch.tensor(each) for each in zip(*rows, strict=True))
    new.embed_tokens.weight[to] = old.embed_tokens.weight[of]
    model.lm_head.weight[to] = first.lm_head.weight[of]
    new.norm.load_state_dict(old.norm.state_dict())
    heads, width = TEXT["num_attention_heads"], TEXT["head_dim"]
    pairs = torch.arange(24) * 4 // 3
    place = torch.cat([pairs, pairs + width // 2])
    sizes = _sizes(first)
    for index, (layer, before) in enumerate(zip(new.layers, old.layers, strict=True)):
        own, theirs = layer.self_attn, before.self_attn
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = getattr(theirs, name).weight.unflatten(0, (heads, -1))
            wide = 0.02 * torch.randn(heads, width, WIDTH) * WIDTH**-0.5
            wide[:, place] = weight
            getattr(own, name).weight.copy_(wide.flatten(0, 1))
        wide = torch.zeros(WIDTH, heads, width)
        wide[:, :, place] = theirs.o_proj.weight.unflatten(1, (heads, -1))
        own.o_proj.weight.copy_(wide.flatten(1))
        own.q_norm.weight.fill_(sizes[index][0] * (width / 48) ** 0.5)
        own.k_norm.weight.fill_(sizes[index][1])
        for name in ("mlp", "input_layernorm", "post_attention_layernorm"):
            getattr(layer, name).load_state_dict(getattr(before, name).state_dict())


def _sizes(first: LlavaOnevisionForConditionalGeneration) -> list[list[float]]:
    """How long queries and keys are, for each layer: the root of their mean square over 64 places."""
    found: dict[tuple[int, str], float] = {}
    hooks = [
        getattr(layer.self_attn, f"{k}_proj").register_forward_hook(
            lambda module, args, out, at=(i, k): found.__setitem__(
                at, float((out.detach().unflatten(-1, (4, 48)).pow(2).sum(-1) / 64).sqrt().mean())
            )
        )
        for i, layer in enumerate(first.model.language_model.layers)
        for k in "qk"
    ]
    words = tiny_llava.tokenizer()
    video = torch.from_numpy(md.sample("train", 2 * 10**6, frames=16).frames)[None]
    seen = tiny_llava.see(first, video).tokens
    ask = words("Which shape flashes?<|im_end|><|im_start|>assistant", return_tensors="pt")["input_ids"]
    embed = first.model.language_model.embed_tokens
    start = embed(words("<|im_start|>user", return_tensors="pt")["input_ids"])
    first.model.language_model(inputs_embeds=torch.cat([start, seen, embed(ask)], 1))
    for hook in hooks:
        hook.remove()
    layers = len(first.model.language_model.layers)
    return [[found[i, k] for k in "qk"] for i in range(layers)]
