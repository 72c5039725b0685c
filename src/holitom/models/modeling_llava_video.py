"""LLaVA-Video, which transformers does not have, as subclasses of its LLaVA-OneVision classes.

LLaVA-Video (arXiv 2410.02713) is LLaVA-OneVision with other video tokens: 2x2 average pooling (27 x 27
patches give 13 x 13) and a newline token after every row of every frame. Its checkpoints
(lmms-lab/LLaVA-Video-7B-Qwen2 and -72B-Qwen2) are in the LLaVA-NeXT repository's layout; `load` reads them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionModel,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PretrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from holitom.errors import ModelError, UnsupportedModelError
from holitom.ops.pooling import pool

FAMILY = "LLaVA-Video"
KNOWN_TOWER = "google/siglip-so400m-patch14-384"
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<{{ part['type'] }}>\n{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pooled_side(side: int, mode: str, stride: int) -> int:
    """Side, in tokens, of a pooled grid of `side` x `side` patches."""
    return math.ceil(side / stride) if mode == "bilinear" else side // stride


@strict
class LlavaVideoConfig(LlavaOnevisionConfig):
    """A LLaVA-OneVision configuration with settings for the pooling of video frames.

    Attributes:
        video_pool_mode: "average", "max" or "bilinear".
        video_pool_stride: side, in patches, of the square that becomes one token.
    """

    model_type = "llava_video"

    video_pool_mode: str = "average"
    video_pool_stride: int = 2

    @property
    def video_side(self) -> int:
        """Side of the square grid of a frame's visual tokens."""
        vision: Any = self.vision_config
        return pooled_side(
            vision.image_size // vision.patch_size, self.video_pool_mode, self.video_pool_stride
        )


class LlavaVideoModel(LlavaOnevisionModel):
    """`LlavaOnevisionModel` with LLaVA-Video's pooling and newlines."""

    config: LlavaVideoConfig

    def apply_pooling(self, image_features: Tensor) -> Tensor:
        """Pool patches `[F, P, D]` of square frames to `[F, N, D]`."""
        mode, stride = self.config.video_pool_mode, self.config.video_pool_stride
        return pool(image_features, math.isqrt(image_features.shape[1]), mode, stride)

    def get_video_features(self, pixel_values_videos: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Encode videos `[videos, frames, channels, height, width]`, with a newline token behind every grid
        row.

        The `pooler_output` of the result is `[videos, frames * rows * (columns + 1), D]`.
        """
        kwargs["return_dict"], as_dict = True, kwargs.get("return_dict", True)
        encoded = super().get_video_features(pixel_values_videos, *args, **kwargs)
        side = self.config.video_side
        rows = encoded.pooler_output[:, :-1].unflatten(1, (-1, side))  # without LLaVA-OneVision's one newline
        newline = self.image_newline.to(rows).expand(*rows.shape[:2], 1, -1)
        encoded.pooler_output = torch.cat([rows, newline], dim=2).flatten(1, 2)
        return encoded if as_dict else encoded.to_tuple()


class LlavaVideoForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """LLaVA-Video with its language-modelling head."""

    config: LlavaVideoConfig
    config_class = LlavaVideoConfig

    def __init__(self, config: LlavaVideoConfig) -> None:
        # LLaVA-OneVision's __init__ would build its own `model` first.
        super(LlavaOnevisionForConditionalGeneration, self).__init__(config)
        text: Any = config.text_config
        self.model = LlavaVideoModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]


class LlavaVideoProcessor(LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor with LLaVA-Video's number of placeholders.

    Args:
        video_pool_mode, video_pool_stride: as in `LlavaVideoConfig`.
        others: as in `LlavaOnevisionProcessor`.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
        video_pool_mode: str = "average",
        video_pool_stride: int = 2,
    ) -> None:
        self.video_pool_mode, self.video_pool_stride = video_pool_mode, video_pool_stride
        super().__init__(  # type: ignore[no-untyped-call]
            image_processor,
            tokenizer,
            video_processor,
            num_image_tokens,
            vision_feature_select_strategy,
            chat_template,
            image_token,
            video_token,
            vision_aspect_ratio,
        )

    def tokens_per_frame(self) -> int:
        """Number of placeholders of one frame: rows of tokens, each with a newline."""
        assert self.num_image_tokens is not None
        side = pooled_side(math.isqrt(self.num_image_tokens), self.video_pool_mode, self.video_pool_stride)
        return side * (side + 1)

    def replace_video_token(self, video_inputs: dict[str, Any], video_idx: int, **kwargs: Any) -> str:
        """The placeholders of video `video_idx`."""
        frames = len(video_inputs["pixel_values_videos"][video_idx])
        placeholders: str = self.video_token * (frames * self.tokens_per_frame())
        return placeholders

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> Any:
        counted = super()._get_num_multimodal_tokens(image_sizes, **kwargs)  # type: ignore[no-untyped-call]
        if video_sizes is not None:
            counted.num_video_tokens = [frames * self.tokens_per_frame() for frames, _, _ in video_sizes]
        return counted


# With these registrations transformers' Auto classes load what `save_pretrained` wrote.
AutoConfig.register(LlavaVideoConfig.model_type, LlavaVideoConfig, exist_ok=True)
AutoModelForImageTextToText.register(LlavaVideoConfig, LlavaVideoForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LlavaVideoConfig, LlavaVideoProcessor, exist_ok=True)


def is_original(config: dict[str, Any]) -> bool:
    """Whether `config` is the `config.json` of a Qwen model of the LLaVA-NeXT repository."""
    return bool(config.get("architectures") == ["LlavaQwenForCausalLM"])


def converted_config(original: dict[str, Any]) -> LlavaVideoConfig:
    """Convert the configuration of an original checkpoint.

    Args:
        original: its `config.json`. `mm_vision_tower` is "google/siglip-so400m-patch14-384", or a folder with
            a SigLIP configuration.

    Raises:
        UnsupportedModelError: these classes do not support the variant.
    """
    expected = {
        "mm_newline_position": ("grid",),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_spatial_pool_mode": ("average", "max", "bilinear"),
        "mm_vision_select_feature": ("patch",),
        "mm_patch_merge_type": ("spatial_unpad",),
        "add_faster_video": (False,),
        "use_sliding_window": (False,),
        "image_aspect_ratio": ("anyres_max_9",),
    }
    for field, values in expected.items():
        value = original.get(field, values[0])
        if value not in values:
            raise UnsupportedModelError(
                f"{FAMILY} with {field}={value!r}; supported: {', '.join(map(repr, values))}"
            )
    tower = original.get("mm_vision_tower", KNOWN_TOWER)
    if tower == KNOWN_TOWER:
        shape: dict[str, Any] = {**SIGLIP, "num_hidden_layers": 27}
        vision = SiglipVisionConfig(**shape)
    elif Path(tower).is_dir():
        vision = SiglipVisionConfig.from_pretrained(tower)
    else:
        raise UnsupportedModelError(
            f"{FAMILY} with mm_vision_tower={tower!r}; supported: {KNOWN_TOWER!r}, or a folder with a "
            "SigLIP config"
        )
    # The repository drops the tower's layers behind the one that it reads, and the tower's head.
    selected = original.get("mm_vision_select_layer", -2)
    vision.num_hidden_layers += selected + 1 if selected < 0 else selected - vision.num_hidden_layers
    vision.vision_use_head = False
    fields = Qwen2Config().to_dict().keys() | {"rope_theta", "rope_scaling"}
    kept = {name: value for name, value in original.items() if name in fields and name != "model_type"}
    text = Qwen2Config(**kept)
    return LlavaVideoConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=original.get("image_token_index", 151646),
        video_token_index=original.get("video_token_index", 151647),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_grid_pinpoints=original.get("image_grid_pinpoints"),
        video_pool_mode=original.get("mm_spatial_pool_mode", "average"),
        video_pool_stride=original.get("mm_spatial_pool_stride") or 2,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def load(
    name: str, *, dtype: str | torch.dtype = "auto", pool_mode: str | None = None, **settings: Any
) -> tuple[LlavaVideoForConditionalGeneration, LlavaVideoProcessor]:
    """Load the model and the processor of an original LLaVA-Video checkpoint.

    Args:
        name: its folder, or its id on the Hugging Face Hub (`lmms-lab/LLaVA-Video-7B-Qwen2`).
        dtype: "auto" (as the checkpoint says), or a torch dtype.
        pool_mode: "average", "max" or "bilinear"; None: as the checkpoint says. Its authors evaluate with
            "average" (13 x 13 tokens and 13 newlines per frame at 384 pixels).
        settings: further arguments of `from_pretrained`, such as `device_map`.

    Raises:
        UnsupportedModelError: these classes do not support the variant.
        ModelError: weights are missing, or the embeddings have no rows for the placeholder ids.
        OSError: there is no such checkpoint.
    """
    original, _ = PretrainedConfig.get_config_dict(name)
    if not is_original(original):
        raise UnsupportedModelError(
            f"{name} is no {FAMILY} checkpoint in its original layout: its architecture is "
            f"{(original.get('architectures') or [None])[0]}, not LlavaQwenForCausalLM"
        )
    if pool_mode is not None:
        original["mm_spatial_pool_mode"] = pool_mode
    config = converted_config(original)
    processor = _processor(name, config)
    loaded: Any = LlavaVideoForConditionalGeneration.from_pretrained(
        name,
        config=config,
        dtype=dtype,
        key_mapping=_key_mapping(config),
        output_loading_info=True,
        **settings,
    )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(f"model {name}: {len(missing)} of its weights are missing, such as {missing[0]}")
    # Saving must write these classes' names of weights, since the original names are not read back.
    vars(model).pop("_weight_conversions", None)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.eval(), processor


def _key_mapping(config: LlavaVideoConfig) -> dict[str, str]:
    """Map patterns of original names of weights to the names of these classes."""
    with torch.device("meta"):
        tower = LlavaVideoModel(config).vision_tower
    inner = "vision_model." if hasattr(tower, "vision_model") else ""
    return {
        r"^model\.vision_tower\.vision_tower\.vision_model\.": f"model.vision_tower.{inner}",
        r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
        r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
        r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
    }


def _processor(name: str, config: LlavaVideoConfig) -> LlavaVideoProcessor:
    """Make the processor of checkpoint `name`; placeholders that have no ids get some."""
    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    for token in ("<image>", "<video>"):
        if token not in tokenizer.get_vocab():
            tokenizer.add_special_tokens(
                {"additional_special_tokens": [AddedToken(token, special=True, normalized=False)]},
                replace_additional_special_tokens=False,
            )
    ids = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    config.image_token_index, config.video_token_index = ids
    text: Any = config.text_config
    vision: Any = config.vision_config
    if max(ids) >= text.vocab_size:
        raise ModelError(
            f"model {name}: its {text.vocab_size} embeddings leave no room for the placeholders <image> and "
            "<video>"
        )
    seen: dict[str, Any] = {
        "size": {"height": vision.image_size, "width": vision.image_size},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return LlavaVideoProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            **seen, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**seen),
        video_pool_mode=config.video_pool_mode,
        video_pool_stride=config.video_pool_stride,
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
