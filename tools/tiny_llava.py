"""The bundled model's architecture: LLaVA-OneVision's own classes at about 5M parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import Layout, Seen, alike_heads, initialise_text, sincos, word_tokenizer
from tokenizers import Regex
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from holitom.bench import moving_digits as md

NAME = "tiny LLaVA-OneVision"
FRAMES_PER_STEP = 1
WIDTH, VISION_WIDTH = 192, 128
VISION = dict(hidden_size=VISION_WIDTH, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
TEXT = dict(
    hidden_size=WIDTH,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=4,
)
PATCH = md.CELL // 2  # 14 x 14 patches a frame, pooled 2 x 2 to one token a cell
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, case ignored, punctuation apart."""
    return word_tokenizer(SPECIAL, (), Regex(r"\w+|[^\w\s]"), ["<|im_start|>", "<image>", "<video>"])


def processor() -> LlavaOnevisionProcessor:
    """The stock processor at 112 pixels, pixel values in -1..1."""
    look = dict(
        size={"height": md.SIDE, "width": md.SIDE}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[md.SIDE, md.SIDE]], **look),
        video_processor=LlavaOnevisionVideoProcessor(**look),
        tokenizer=tokenizer(),
        num_image_tokens=(md.SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def build(seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    """A fresh model, initialised so that a small residual stream carries visual tokens well."""
    words = tokenizer()
    vision = SiglipVisionConfig(image_size=md.SIDE, patch_size=PATCH, vision_use_head=False, **VISION)
    text = Qwen2Config(
        vocab_size=len(words),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **TEXT,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision.to_dict() | {"model_type": "siglip_vision_model"},
        text_config=text.to_dict() | {"model_type": "qwen2"},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[md.SIDE, md.SIDE]],
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: LlavaOnevisionForConditionalGeneration) -> None:
    tower, text = model.model.vision_tower, model.model.language_model
    width, heads = VISION["hidden_size"], VISION["num_attention_heads"]
    tower.embeddings.position_embedding.weight.copy_(0.7 * sincos(md.SIDE // PATCH, width))
    for layer in tower.encoder.layers:
        query, key = alike_heads(width, heads)
        layer.self_attn.q_proj.weight.copy_(query)
        layer.self_attn.k_proj.weight.copy_(key)
    initialise_text(text, TEXT["hidden_size"])
    for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        linear.weight.normal_(0, linear.weight.shape[1] ** -0.5)
    model.lm_head.weight.normal_(0, TEXT["hidden_size"] ** -0.5)
    model.model.image_newline.normal_(0, 0.5)


# --- what training needs ------------------------------------------------------------------------------


def fast(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Give the tower an attention that is fast on a CPU."""
    model.model.vision_tower.config._attn_implementation = "dense"


def eyes(model: LlavaOnevisionForConditionalGeneration) -> list[tuple[str, nn.Parameter]]:
    """What stage 1 trains: the tower and the projector."""
    modules = nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector])
    # the language model is fed the last hidden state *before* post_layernorm
    return [(name, weight) for name, weight in modules.named_parameters() if "post_layernorm" not in name]


def mouth(model: LlavaOnevisionForConditionalGeneration) -> list[tuple[str, nn.Parameter]]:
    """What later stages train: the language model and the newline."""
    return [
        *model.model.language_model.named_parameters(),
        ("image_newline", model.model.image_newline),
        *model.lm_head.named_parameters(),
    ]


def last_attention(model: LlavaOnevisionForConditionalGeneration) -> nn.Module:
    attention: nn.Module = model.model.vision_tower.encoder.layers[-1].self_attn
    return attention


def last_linear(model: LlavaOnevisionForConditionalGeneration) -> nn.Linear:
    """The layer that visual tokens come out of."""
    linear: nn.Linear = model.model.multi_modal_projector.linear_2
    return linear


def see(model: LlavaOnevisionForConditionalGeneration, frames: Tensor) -> Seen:
    """Tokens `[B, F * 49 + 1, 192]` of uint8 frames `[B, F, 112, 112, 3]`, the newline last."""
    pixels = (frames.movedim(-1, -3).to(torch.float32) / 127.5 - 1).to(model.dtype)
    tokens = model.model.get_video_features(pixels).pooler_output[:, :-1]
    with torch.enable_grad():  # the newline learns where the tower is frozen
        newline = model.model.image_newline.expand(len(frames), 1, -1)
        return Seen(torch.cat([tokens, newline], 1), [])


def layout(words: PreTrainedTokenizerFast, times: Sequence[float]) -> Layout:
    """The prompt up to the question, for frames shown at `times`; it does not say when."""
    ids = words("<|im_start|>user")["input_ids"]
    visual = len(times) * md.GRID**2 + 1
    marks = [words.convert_tokens_to_ids("<video>")] * visual
    return Layout([*ids, *marks], [*[-1] * len(ids), *range(visual)], None)


def placed(positions: Tensor) -> Tensor:
    """Positions `[1, B, L]` as the language model takes them."""
    return positions[0]


def streams(deep: list[Tensor], shown: Tensor, length: int) -> dict[str, Any]:
    """What the language model is given besides its prompt: nothing."""
    return {}


def save(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """Write the checkpoint folder that plain `from_pretrained` loads: model, processor, tokenizer."""
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
