"""LLaVA-OneVision (0.5B, 7B, 72B): SigLIP tower, 2x2 bilinear pooling, one newline token a video, Qwen2."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.models.base import SentTokens
from holitom.models.one_axis import OneAxis, feature_layer
from holitom.tokens import MergedTokens, VideoTokens


class LlavaOnevision(OneAxis):
    """Adapter for `transformers.LlavaOnevisionForConditionalGeneration`."""

    family: ClassVar[str] = "LLaVA-OneVision"
    towers: ClassVar[tuple[str, ...]] = ("siglip_vision_model", "siglip")
    decoders: ClassVar[tuple[str, ...]] = ("qwen2",)

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self._check_parts(config)
        strategy = config.vision_feature_select_strategy
        self._supported("vision_feature_select_strategy", strategy, ("full",))
        trunk: Any = model.model
        tower = getattr(trunk.vision_tower, "vision_model", trunk.vision_tower)
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        self.vision_attention = feature_layer(tower.encoder.layers, config.vision_feature_layer).self_attn
        self._pool = trunk.apply_pooling
        self._video_token = int(config.video_token_id)
        self._image = (config.vision_config.num_channels, *2 * (config.vision_config.image_size,))
        side = math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)
        self._grid = (side, side)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        return input_ids == self._video_token

    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        count, frames = arguments["pixel_values_videos"].shape[:2]
        features = self._features(encoded.pooler_output).reshape(
            count, frames, -1, encoded.pooler_output.shape[-1]
        )
        # The model's own pooling, so importance and keys are pooled exactly as the features are.
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

    def _features(self, sent: Tensor) -> Tensor:
        """Of what the model sends for each video, `[videos, slots, D]`, all but newlines."""
        return sent[:, :-1]

    def pixels(self, frames: int) -> Tensor:
        return torch.empty(1, frames, *self._image, device="meta")

    def slots(self, video: VideoTokens) -> int:
        frames, tokens = video.features.shape[:2]
        return frames * tokens + 1

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        trunk: Any = self.trunk
        newline = trunk.image_newline[None].to(merged.features)
        frames, tokens = video.features.shape[:2]
        last = merged.frame.new_tensor([frames * tokens])
        return SentTokens(
            features=torch.cat([merged.features, newline]),
            slot=torch.cat([merged.frame * tokens + merged.position, last]),
        )
