"""What families share whose language model counts positions along one axis, as text does.

Their decoders rotate whole heads (Llama, Mistral, Qwen2, Qwen3), their vision towers project queries and
keys apart (SigLIP, CLIP, InternViT). A family's own file says what is left: its pooling, its separators, its
placeholders.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from holitom.errors import UnsupportedModelError
from holitom.models.base import Adapter, SentTokens, require_modules
from holitom.ops.attention import frames_per_chunk, received_attention
from holitom.tokens import MergedTokens, VideoTokens


class OneAxis(Adapter):
    """Importance, keys and decoder read-outs of such a family.

    Attributes:
        family: its name in messages.
        towers: `model_type` of the vision towers that are known.
        decoders: `model_type` of the language models that are known.
        layer_types: of their layers.
    """

    family: ClassVar[str]
    towers: ClassVar[tuple[str, ...]]
    decoders: ClassVar[tuple[str, ...]]
    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention"})
    rotate = staticmethod(apply_rotary_pos_emb)
    leading: ClassVar[int] = 0
    """Tokens before the patches (class tokens): they ask like any other; what they receive is left out."""

    def _check_parts(self, config: Any) -> None:
        """Raise `UnsupportedModelError` for a tower or language model that nobody has looked at."""
        text = config.text_config
        self._supported("a tower of type", config.vision_config.model_type, self.towers)
        self._supported("a language model of type", text.model_type, self.decoders)
        layers = set(getattr(text, "layer_types", None) or ["full_attention"])
        if layers - self.layer_types or (text.model_type == "mistral" and text.sliding_window):
            raise UnsupportedModelError(
                f"{self.family} with sliding-window layers; supported: full attention"
            )

    def _supported(self, what: str, value: object, known: tuple[object, ...]) -> None:
        if value not in known:
            raise UnsupportedModelError(
                f"{self.family} with {what} {value!r}; supported: {', '.join(map(repr, known))}"
            )

    def _readable(self, attention: nn.Module) -> nn.Module:
        """The tower's `attention`, whose queries and keys can be read."""
        require_modules(attention, ("q_proj", "k_proj"), f"{self.family}'s vision tower")
        return attention

    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        attention: Any = self.vision_attention
        hidden: Tensor = arguments["hidden_states"]
        scale = attention.head_dim**-0.5
        received = []
        for chunk in torch.split(hidden, frames_per_chunk(attention.num_heads, hidden.shape[1])):
            query, key = (self._heads(name, chunk).transpose(1, 2) for name in ("q", "k"))
            received.append(received_attention(query, key, scale)[:, self.leading :])
        return torch.cat(received)

    def keys(self, arguments: dict[str, Any]) -> Tensor:
        return self._heads("k", arguments["hidden_states"])[:, self.leading :].mean(dim=2)

    def _heads(self, name: str, hidden: Tensor) -> Tensor:
        """Queries ("q") or keys ("k") `[F, P, heads, d]` of the vision attention."""
        attention: Any = self.vision_attention
        projected: Tensor = getattr(attention, f"{name}_proj")(hidden)
        norm = getattr(attention, f"{name}_norm", None)  # some InternViTs normalise before they part heads
        projected = projected if norm is None else norm(projected)
        return projected.view(*projected.shape[:2], attention.num_heads, -1)


class StackedFrames(OneAxis):
    """A family whose videos come as `pixel_values_videos` `[videos, frames, channels, height, width]`.

    Attributes:
        grid: `(rows, columns)` of one frame's visual tokens.
        image: `(channels, height, width)` of one frame's pixels.
        video_token: id of a placeholder.
    """

    grid: tuple[int, int]
    image: tuple[int, int, int]
    video_token: int

    def _find(self, model: nn.Module) -> None:
        """Find a LLaVA's tower, its decoder, and the attention of the layer that gives the features."""
        config: Any = model.config
        trunk: Any = model.model
        tower = getattr(trunk.vision_tower, "vision_model", trunk.vision_tower)
        self.trunk = trunk
        self.language_model = trunk.language_model
        self.layers = trunk.language_model.layers
        layer = feature_layer(tower.encoder.layers, config.vision_feature_layer)
        self.vision_attention = self._readable(layer.self_attn)
        self.video_token = int(config.video_token_id)
        vision = config.vision_config
        self.image = (vision.num_channels, vision.image_size, vision.image_size)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        return input_ids == self.video_token

    def encoding(self, frames: int, width: int, height: int) -> dict[str, Any]:
        return {"pixel_values_videos": torch.empty(1, frames, *self.image, device="meta")}

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        videos, frames = arguments["pixel_values_videos"].shape[:2]
        self.check_placeholders(input_ids, [self.count(frames)] * videos)

    @abstractmethod
    def pool(self, patches: Tensor) -> Tensor:
        """Pool `[F, P, c]` over space exactly as the model pools features, to `[F, N, c]`."""

    def features(self, sent: Any) -> Tensor:
        """Of what the model sends for each video, `[videos, slots, D]`, all but separators."""
        features: Tensor = sent
        return features

    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        stacked = arguments["pixel_values_videos"].shape[:2]
        features = self.features(encoded.pooler_output)
        features = features.reshape(*stacked, -1, features.shape[-1])
        if importance is not None:
            importance = self.pool(importance[..., None]).reshape(*stacked, -1)
        if keys is not None:
            keys = self.pool(keys).reshape(*stacked, -1, keys.shape[-1])
        return [
            VideoTokens(
                features=video,
                importance=self.no_importance(video) if importance is None else importance[index],
                grid=self.grid,
                keys=None if keys is None else keys[index],
            )
            for index, video in enumerate(features)
        ]

    def count(self, frames: int) -> int:
        """Placeholders of a video of `frames`, separators included."""
        rows, columns = self.grid
        return frames * rows * columns

    def slots(self, video: VideoTokens) -> int:
        return self.count(len(video.features))

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        return SentTokens(merged.features, merged.frame * video.features.shape[1] + merged.position)


def feature_layer(layers: nn.ModuleList, selected: object) -> Any:
    """The vision layer whose output becomes the features.

    `selected` counts hidden states, of which the embeddings are the first: 1 is the output of `layers[0]`, -1
    that of the last layer. Of several, which are put side by side, the last.
    """
    indices = [selected] if isinstance(selected, int) else list(selected)  # type: ignore[call-overload]
    outputs = [index % (len(layers) + 1) for index in indices]
    return layers[max(outputs) - 1]
