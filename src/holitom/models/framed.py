"""Framed towers: frames are a batch, and each frame attends to itself alone (SigLIP, CLIP, InternViT)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.parts import Parts, StackedParts
from holitom.models.values import Read, SentTokens, of_tokens
from holitom.ops.attention import frames_per_chunk, received_attention
from holitom.tokens import MergedTokens, VideoTokens


class FramedTower(Adapter):
    """An adapter whose tower's attention takes frames `[F, P, D]`.

    Attributes:
        grid: `(rows, columns)` of one frame's visual tokens.
    """

    places: ClassVar[tuple[str, str, str]] = ("vision_tower", "encoder.layers", "self_attn")
    leading: ClassVar[int] = 0
    """Number of class tokens before the patches. Their queries count in importance; what they receive does
    not."""

    grid: tuple[int, int]

    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        attention = self.vision_attention
        hidden: Tensor = arguments["hidden_states"]
        scale = attention.head_dim**-0.5
        received = []
        for chunk in torch.split(hidden, frames_per_chunk(attention.num_heads, hidden.shape[1])):
            query, key = (heads.transpose(1, 2) for heads in self.heads(chunk, "q", "k"))
            received.append(received_attention(query, key, scale)[:, self.leading :])
        return torch.cat(received)

    def keys(self, arguments: dict[str, Any]) -> Tensor:
        (key,) = self.heads(arguments["hidden_states"], "k")
        return key[:, self.leading :].mean(dim=2)

    @abstractmethod
    def pool(self, patches: Tensor) -> Tensor:
        """Pool `[F, P, c]` over space as the model pools features, to `[F, N, c]`."""

    def pooled(self, patches: Tensor) -> Tensor:
        """Pool values or vectors of patches, `[F, P]` or `[F, P, c]`, to tokens, `[F, N]` or `[F, N, c]`."""
        return self.pool(patches[..., None])[..., 0] if patches.dim() == 2 else self.pool(patches)

    def check_layer(self, arguments: dict[str, Any]) -> None:
        """Raise `UnsupportedUsageError` where a call takes features from another layer than attention is read
        in."""
        asked, read = (
            arguments.get("vision_feature_layer"),
            getattr(self.config, "vision_feature_layer", None),
        )
        if asked is not None and asked != read:
            raise UnsupportedUsageError(
                f"vision_feature_layer={asked!r} in a call, but attention is read in the config's layer "
                f"({read!r}); set model.config.vision_feature_layer before attaching"
            )

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        return SentTokens(merged.features, merged.frame * video.features.shape[1] + merged.position)


class StackedFrames(FramedTower):
    """An adapter whose videos are `pixel_values_videos` `[videos, frames, channels, height, width]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.grid = self.frame_grid()

    @abstractmethod
    def frame_grid(self) -> tuple[int, int]:
        """Compute `grid` from the config."""

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        videos, frames = arguments["pixel_values_videos"].shape[:2]
        self.check_placeholders(input_ids, [self.count(frames)] * videos)

    separators: ClassVar[int] = 0
    """Tokens that the model sets behind all frames of a video."""

    def in_parts(self, arguments: dict[str, Any]) -> Parts | None:
        return StackedParts(arguments, self.separators)

    def features(self, sent: Any) -> Tensor:
        """Remove separators from the features `[videos, slots, D]` that the model sends for each video."""
        features: Tensor = sent
        return features

    def videos(self, encoded: Any, arguments: dict[str, Any], read: Read) -> list[Any]:
        self.check_layer(arguments)
        stacked = arguments["pixel_values_videos"].shape[:2]
        features = self.features(encoded.pooler_output)
        features = features.reshape(*stacked, -1, features.shape[-1])

        def pool(patches: Tensor) -> list[Tensor]:
            tokens = self.pooled(patches)
            return list(tokens.view(*stacked, *tokens.shape[1:]))

        fields = of_tokens(read, list(features), pool)
        return [
            VideoTokens(features=video, grid=self.grid, **own)
            for video, own in zip(features, fields, strict=True)
        ]

    def count(self, frames: int) -> int:
        """Number of placeholders of a video of `frames` frames, separators included."""
        rows, columns = self.grid
        return frames * rows * columns

    def slots(self, video: VideoTokens) -> int:
        return self.count(len(video.features))
