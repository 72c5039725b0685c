"""A LLaVA-OneVision of the real classes with random weights, small enough for one core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
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

SIDE, PATCH = 56, 8  # 7 x 7 patches, pooled to 4 x 4: the interpolation does not come out even
WORDS = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|im_start|>",
    "<image>",
    "<video>",
    "<unk>",
    "user",
    "assistant",
] + [f"w{index}" for index in range(56)]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|> ' + message['role'] + ' '}}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{'<video> '}}{% elif part['type'] == 'image' %}{{'<image> '}}"
    "{% else %}{{part['text'] + ' '}}{% endif %}{% endfor %}{{'<|im_end|> '}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|> assistant '}}{% endif %}"
)


@dataclass
class Tiny:
    """A model and its processor."""

    model: Any
    processor: Any

    def inputs(self, *prompts: str, videos: Any = None, images: Any = None, side: str = "left") -> Any:
        """What the processor makes of ready prompts (with `<video>` and `<image>`), padded on `side`."""
        self.processor.tokenizer.padding_side = side
        with torch.device("cpu"):  # where processors work, whatever the default is
            inputs = self.processor(
                text=list(prompts), videos=videos, images=images, padding=True, return_tensors="pt"
            )
        return inputs.to(self.model.device)


def build_processor() -> Any:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
    )
    size = {"height": SIDE, "width": SIDE}
    grid = [[SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        tokenizer=fast,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def build_config(layers: int = 4) -> LlavaOnevisionConfig:
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlavaOnevisionConfig(
        vision_config=vision.to_dict() | {"model_type": "siglip_vision_model"},
        text_config=text.to_dict() | {"model_type": "qwen2"},
        image_token_index=WORDS.index("<image>"),
        video_token_index=WORDS.index("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
        tie_word_embeddings=False,
    )


def build_model(attention: str = "sdpa", dtype: torch.dtype = torch.float32, layers: int = 4) -> Any:
    device = torch.get_default_device()
    with torch.device("cpu"):  # the same weights on every device
        return _model(attention, layers).to(device, dtype).eval()


def _model(attention: str, layers: int) -> Any:
    torch.manual_seed(0)
    config = build_config(layers)
    model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        # Fresh weights attend evenly and say one word for ever: louder ones make every token matter.
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and "position_embedding" not in name:
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
        model.get_input_embeddings().weight.normal_(0, 1)
        model.model.image_newline.normal_(0, 1)
    model.generation_config.eos_token_id = None  # every generation runs to its full length
    model.generation_config.pad_token_id = 0
    return model


def video(frames: int = 4, seed: int = 0) -> np.ndarray[Any, Any]:
    """A still picture with a little noise, cut once in the middle: `[frames, 56, 56, 3]` uint8."""
    rng = np.random.default_rng(seed)
    scenes = rng.integers(0, 256, (2, SIDE, SIDE, 3))
    noise = rng.integers(-12, 13, (frames, SIDE, SIDE, 3))
    shots = np.stack([scenes[2 * t // frames] for t in range(frames)])
    return np.clip(shots + noise, 0, 255).astype(np.uint8)


def image(seed: int = 0) -> np.ndarray[Any, Any]:
    """A random picture."""
    return np.random.default_rng(seed + 1000).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
