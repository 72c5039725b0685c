"""What the runtime asks of a model family. A new family is one subclass and one row of the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holitom.errors import UnsupportedModelError
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class SentTokens:
    """What takes the place of one video's placeholders, in the order it is sent.

    Attributes:
        features: `[S, D]`: merged tokens and the family's own separators (newlines).
        slot: `[S]` int64: the placeholder (0-based, within its video) that each stands at.
        place: `[S]` int64: the place `t * N + n` of each in the video; -1: a separator. None: the family does
            not say, and then what survives inside the language model is counted but cannot be drawn.
    """

    features: Tensor
    slot: Tensor
    place: Tensor | None = None


class Adapter(ABC):
    """One model of one family: where things are, and the few computations that only it knows.

    Attributes:
        trunk: module whose `forward` takes `input_ids`, fills in visual features and calls `language_model`;
            its `get_video_features` encodes videos.
        language_model: decoder that takes `inputs_embeds`.
        layers: the decoder's layers; each has `self_attn`.
        vision_attention: attention module of the vision tower's last layer.
    """

    trunk: nn.Module
    language_model: nn.Module
    layers: nn.ModuleList
    vision_attention: nn.Module

    @abstractmethod
    def __init__(self, model: nn.Module) -> None:
        """Find the parts of `model`; raise `UnsupportedModelError` for a variant that is not known."""

    @abstractmethod
    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Which of `input_ids` `[B, L]` stand for video tokens: `[B, L]` bool."""

    @abstractmethod
    def importance(self, hidden: Tensor) -> Tensor:
        """Attention received in the last vision layer, `[F, P]` float32, from its input `[F, P, D]`."""

    @abstractmethod
    def keys(self, hidden: Tensor) -> Tensor:
        """Keys of the last vision layer, averaged over heads, `[F, P, d]`, from its input `[F, P, D]`."""

    @abstractmethod
    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        """The videos that one call of `get_video_features` has encoded.

        Args:
            encoded: what the call returned.
            arguments: its arguments by name.
            importance: `[F, P]` of all frames, or None where the method needs none (then it is all zero).
            keys: `[F, P, d]` of all frames, or None where the method needs none.
        """

    @abstractmethod
    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        """What the language model gets for `video`, separators included."""

    @abstractmethod
    def slots(self, video: VideoTokens) -> int:
        """How many placeholders `video` has in the prompt, separators included."""

    def attention_input(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """What the attention of decoder `layer` gets when `hidden` `[B, S, D]` enters the layer."""
        decoder_layer: Any = layer
        normed: Tensor = decoder_layer.input_layernorm(hidden)
        return normed

    @abstractmethod
    def query(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated queries `[B, heads, S, d]` of decoder attention `attention` for its input `[B, S, D]`."""

    @abstractmethod
    def key(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated keys `[B, kv_heads, S, d]`, likewise."""

    def pixels(self, frames: int) -> Tensor:
        """What `trunk.get_video_features` takes first for one video of `frames`, on the meta device.

        Raises:
            UnsupportedModelError: the family does not say, so its costs cannot be counted.
        """
        raise UnsupportedModelError(f"counting costs is not supported for {type(self).__name__}")

    def no_importance(self, features: Tensor) -> Tensor:
        """What `VideoTokens.importance` holds when no method reads it: zeros `[T, N]`."""
        return torch.zeros(features.shape[:2], device=features.device)
