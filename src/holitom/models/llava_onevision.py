"""LLaVA-OneVision (0.5B, 7B, 72B): SigLIP tower, 2x2 bilinear pooling, one newline token a video, Qwen2."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from holitom.errors import UnsupportedModelError
from holitom.models.base import Adapter, SentTokens
from holitom.ops.attention import frames_per_chunk, received_attention
from holitom.tokens import MergedTokens, VideoTokens


class LlavaOnevision(Adapter):
    """Adapter for `transformers.LlavaOnevisionForConditionalGeneration`."""

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        vision, text = config.vision_config.model_type, config.text_config.model_type
        if vision not in ("siglip_vision_model", "siglip"):
            raise UnsupportedModelError(
                f"LLaVA-OneVision with a {vision} tower; supported: siglip_vision_model"
            )
        if text != "qwen2":
            raise UnsupportedModelError(f"LLaVA-OneVision with a {text} language model; supported: qwen2")
        if config.vision_feature_select_strategy != "full":
            raise UnsupportedModelError(
                "LLaVA-OneVision with vision_feature_select_strategy="
                f"{config.vision_feature_select_strategy!r}; supported: 'full'"
            )
        if any(kind != "full_attention" for kind in config.text_config.layer_types):
            raise UnsupportedModelError(
                "LLaVA-OneVision with sliding-window layers; supported: full attention"
            )
        trunk: Any = model.model
        tower = getattr(trunk.vision_tower, "vision_model", trunk.vision_tower)
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        self.vision_attention = tower.encoder.layers[-1].self_attn
        self._pool = trunk.apply_pooling
        self._video_token = int(config.video_token_id)
        self._image = (config.vision_config.num_channels, *2 * (config.vision_config.image_size,))
        side = config.vision_config.image_size // config.vision_config.patch_size
        self._grid = (math.ceil(side / 2), math.ceil(side / 2))

    def placeholders(self, input_ids: Tensor) -> Tensor:
        return input_ids == self._video_token

    def importance(self, hidden: Tensor) -> Tensor:
        attention: Any = self.vision_attention
        patches = hidden.shape[1]
        received = []
        for chunk in torch.split(hidden, frames_per_chunk(attention.num_heads, patches)):
            shape = (chunk.shape[0], patches, attention.num_heads, attention.head_dim)
            query = attention.q_proj(chunk).view(shape).transpose(1, 2)
            key = attention.k_proj(chunk).view(shape).transpose(1, 2)
            received.append(received_attention(query, key, attention.scale))
        return torch.cat(received)

    def keys(self, hidden: Tensor) -> Tensor:
        attention: Any = self.vision_attention
        keys: Tensor = attention.k_proj(hidden).unflatten(-1, (attention.num_heads, -1))
        return keys.mean(dim=2)

    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        count, frames = arguments["pixel_values_videos"].shape[:2]
        tokens = encoded.pooler_output[:, :-1]  # the last one is the newline
        features = tokens.reshape(count, frames, -1, tokens.shape[-1])
        # The model's own pooling, so importance and keys are interpolated exactly as the features are.
        if importance is not None:
            importance = self._pool(importance[..., None]).reshape(count, frames, -1)
        if keys is not None:
            keys = self._pool(keys).reshape(count, frames, -1, keys.shape[-1])
        return [
            VideoTokens(
                features=video,
                importance=self.no_importance(video) if importance is None else importance[index],
                grid=self._grid,
                keys=None if keys is None else keys[index],
            )
            for index, video in enumerate(features)
        ]

    def pixels(self, frames: int) -> Tensor:
        return torch.empty(1, frames, *self._image, device="meta")

    def slots(self, video: VideoTokens) -> int:
        frames, tokens = video.features.shape[:2]
        return frames * tokens + 1

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        trunk: Any = self.trunk
        newline = trunk.image_newline[None].to(merged.features)
        frames, tokens = video.features.shape[:2]
        place = merged.frame * tokens + merged.position
        return SentTokens(
            features=torch.cat([merged.features, newline]),
            slot=torch.cat([place, place.new_tensor([frames * tokens])]),
            place=torch.cat([place, place.new_tensor([-1])]),
        )

    def query(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        module: Any = attention
        return _rotated(module.q_proj(hidden), module.head_dim, rotary)

    def key(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        module: Any = attention
        return _rotated(module.k_proj(hidden), module.head_dim, rotary)


def _rotated(projected: Tensor, head_dim: int, rotary: tuple[Tensor, Tensor]) -> Tensor:
    heads = projected.view(*projected.shape[:2], -1, head_dim).transpose(1, 2)
    rotated: Tensor = apply_rotary_pos_emb(heads, heads, *rotary)[0]
    return rotated
