"""The bundled model's architecture: LLaVA-OneVision's own classes at about 5M parameters."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
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

VISION = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
TEXT = dict(
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=4,
)
PATCH = md.CELL // 2  # 14 x 14 patches a frame, pooled 2 x 2 to one token a cell
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<unk>")
WORDS = (
    *("user", "assistant", "system", "?", ".", ","),
    *md.NUMBERS,
    *md.COLORS,
    *md.SHAPES,
    *md.MOTIONS,
    *("top", "bottom", "first", "last", "start", "end"),
    *"how many scenes are there which shape flashes digits in the scene color comes".split(),
    *"digit is way does move where at what many you a it of to and".split(),
)
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
    words = list(dict.fromkeys([*SPECIAL, *WORDS]))
    words += [f"<|unused_{i}|>" for i in range(-len(words) % 32)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        padding_side="left",
        model_max_length=4096,
    )


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
    tower.embeddings.position_embedding.weight.copy_(0.7 * _sincos(md.SIDE // PATCH, width))
    for layer in tower.encoder.layers:
        # in half of the heads queries start equal to keys: a patch first looks at patches like itself
        # and near it; the other half starts out looking everywhere
        alike = torch.cat([torch.linalg.qr(torch.randn(width, width // heads))[0].T for _ in range(heads)])
        alike[width // 2 :] *= 0.2
        layer.self_attn.q_proj.weight.copy_(alike + 0.02 * torch.randn_like(alike))
        layer.self_attn.k_proj.weight.copy_(alike + 0.02 * torch.randn_like(alike))
        layer.self_attn.k_proj.weight[width // 2 :] = 0.2 * torch.randn(width // 2, width) * width**-0.5
    text.embed_tokens.weight.normal_(0, 0.5)
    deep = (2 * TEXT["num_hidden_layers"]) ** -0.5
    for layer in text.layers:
        for name, weight in layer.named_parameters():
            if weight.ndim == 2:
                gain = deep * 0.5 if "o_proj" in name or "down_proj" in name else 1.0
                weight.normal_(0, gain * weight.shape[1] ** -0.5)
        # as in the tower: in half of the heads a token first looks at tokens like itself
        half = TEXT["hidden_size"] // 2
        layer.self_attn.k_proj.weight[:half] = layer.self_attn.q_proj.weight[:half]
    for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        linear.weight.normal_(0, linear.weight.shape[1] ** -0.5)
    model.lm_head.weight.normal_(0, TEXT["hidden_size"] ** -0.5)
    model.model.image_newline.normal_(0, 0.5)


def _sincos(side: int, width: int) -> torch.Tensor:
    """`[side * side, width]` sine-cosine position codes over rows and columns."""
    quarter = width // 4
    rate = math.pi / side * torch.exp(torch.arange(quarter) / (quarter - 1) * math.log(side * 0.6))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.flatten()[:, None] * rate for axis in (x, y)]
    return torch.cat([wave for a in angles for wave in (a.sin(), a.cos())], 1)


def save(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """Write the checkpoint folder that plain `from_pretrained` loads: model, processor, tokenizer."""
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
