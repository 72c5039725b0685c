"""What the runtime asks of a model family. A new family is one subclass and one row of the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.errors import SettingsError, UnsupportedModelError, UnsupportedUsageError
from holitom.ops.host import host_values
from holitom.tokens import MergedTokens, VideoTokens

if TYPE_CHECKING:
    from holitom.contract import InnerStage


@dataclass(frozen=True)
class SentTokens:
    """What takes the place of one video's placeholders, in the order it is sent.

    Attributes:
        features: `[S, D]`: merged tokens and the family's own separators (newlines).
        slot: `[S]` int64: the placeholder (0-based, within its video) that each stands at.
        streams: `[S, E]`: the merged tokens' streams; None where the family has none.
        place: `[S]` int64: the place `t * N + n` of each in the video, -1 a separator. None: its slot.
    """

    features: Tensor
    slot: Tensor
    streams: Tensor | None = None
    place: Tensor | None = None


class Adapter(ABC):
    """One model of one family: where things are, and the few computations that only it knows.

    Attributes:
        model: the whole model, whose `forward` takes labels and which has `generate`.
        trunk: module whose `forward` takes `input_ids`, fills in visual features and calls `language_model`;
            its `encoder` encodes videos.
        language_model: decoder that takes `inputs_embeds`.
        layers: the decoder's layers. Those that attend have `self_attn`; others (gated delta nets) carry a
            state from token to token.
        vision_attention: attention module of the vision tower's last layer.
        streams: how many of the first decoder layers add visual features of their own to what leaves them.
    """

    model: nn.Module
    trunk: nn.Module
    language_model: nn.Module
    layers: nn.ModuleList
    vision_attention: nn.Module
    streams: int = 0
    frames_per_step: int = 1
    """Frames that the tower makes one grid of tokens of."""

    rotate: ClassVar[Callable[..., tuple[Tensor, Tensor]]]
    """The decoder's `apply_rotary_pos_emb`."""

    keeps_positions: ClassVar[bool] = False
    """Whether a token keeps the position ids of the column it stands at (multi-axis rotary positions); else
    what is left of a row is numbered anew, without gaps."""

    modality: ClassVar[str] = "video"
    """What the family's classes call what they encode: "image" where videos come as images between texts."""

    @property
    def encoder(self) -> str:
        """The method of `trunk` that encodes videos."""
        return f"get_{self.modality}_features"

    @property
    def pixels_name(self) -> str:
        """Its first argument."""
        return "pixel_values_videos" if self.modality == "video" else "pixel_values"

    @abstractmethod
    def __init__(self, model: nn.Module) -> None:
        """Find the parts of `model`; raise `UnsupportedModelError` for a variant that is not known."""

    def attends(self, layer: int) -> bool:
        """Whether decoder layer `layer` (0-based) attends to keys; else it carries a recurrent state."""
        return hasattr(self.layers[layer], "self_attn")

    def ranked_by(self, stage: InnerStage) -> int:
        """The layer whose attention ranks tokens for `stage`: `stage.layer` itself or one before it.

        Where the layer that should does not attend, the nearest before it that does.

        Raises:
            SettingsError: no layer before it attends.
        """
        wanted = stage.layer if stage.own_attention else stage.layer - 1
        for layer in range(wanted, -1, -1):
            if self.attends(layer):
                return layer
        first = next((layer for layer in range(len(self.layers)) if self.attends(layer)), len(self.layers))
        raise SettingsError(
            f"inner merging at layer {stage.layer}: this model's layers before {first} do not attend, so "
            f"there is nothing to rank tokens by; merge at layer {first + 1} or later"
        )

    def check(self) -> None:  # noqa: B027
        """Raise what would stop a run, before one begins; counting costs does without.

        Raises:
            UnsupportedModelError: something is missing that the config does not tell of.
        """

    @abstractmethod
    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Which of `input_ids` `[B, L]` stand for video tokens: `[B, L]` bool."""

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:  # noqa: B027
        """Look over a prompt with new videos before anything is computed.

        Args:
            input_ids: `[B, L]`.
            arguments: what else the model was given, by name.

        Raises:
            UnsupportedUsageError: the prompt does not hold the videos that came with it.
        """

    def check_placeholders(self, input_ids: Tensor, slots: Sequence[int]) -> None:
        """Raise `UnsupportedUsageError` unless every row of a prompt holds whole videos, in their order.

        Args:
            input_ids: `[B, L]`.
            slots: placeholders of each video.
        """
        rows: list[int] = self.placeholders(*host_values(input_ids)).sum(1).tolist()
        ends = set(accumulate(slots, initial=0))
        if sum(rows) != sum(slots) or not ends.issuperset(accumulate(rows)):
            raise UnsupportedUsageError(
                f"the prompt's rows hold {rows} video placeholders, and its videos are {list(slots)} tokens; "
                "pass the ids that the processor made for these videos, with a processor that fits the model"
            )

    @abstractmethod
    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        """Attention that each patch receives in the last vision layer, float32.

        Args:
            arguments: of `vision_attention`'s forward, by name; `hidden_states` is `[F, P, D]` or, packed,
                `[P, D]`, and the result is that without `D`.
            lengths: `attention_lengths` of what is encoded; without them a packed tower's are read from the
                device.
        """

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        """Of a packed tower, how many patches attend to each other in each frame or crop; else nothing.

        Args:
            arguments: of `trunk`'s `encoder`, by name.
        """
        return []

    @abstractmethod
    def keys(self, arguments: dict[str, Any]) -> Tensor:
        """Keys of the last vision layer, averaged over heads, likewise (`[F, P, d]` or `[P, d]`).

        What is projected from each patch, without the tower's rotary positions where it has any.
        """

    @abstractmethod
    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[VideoTokens]:
        """The videos that one call of `trunk`'s `encoder` has encoded.

        Args:
            encoded: what the call returned.
            arguments: its arguments by name.
            importance: of all patches, or None where the method needs none (then it is all zero).
            keys: of all patches, or None where the method needs none.

        Raises:
            UnsupportedUsageError: what came out of the tower is not what its arguments say.
        """

    def locate(self, encodings: list[VideoTokens], given: dict[str, Any]) -> list[VideoTokens]:
        """The videos of a prompt, in reading order, from what `videos` returned when they were encoded.

        Args:
            encodings: what was encoded; as a rule, one video each.
            given: arguments of `trunk`'s forward by name, with `input_ids`.

        Raises:
            UnsupportedUsageError: the prompt's placeholders are not those of what was encoded.
        """
        return encodings

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        """What the language model gets for `video`, separators included; here in the order of the grid."""
        slot, order = (merged.frame * video.features.shape[1] + merged.position).sort()
        return SentTokens(
            features=merged.features[order],
            slot=slot,
            streams=None if merged.streams is None else merged.streams[order],
        )

    def slots(self, video: VideoTokens) -> int:
        """How many placeholders `video` has in the prompt, separators included; here one a token."""
        return prod(video.features.shape[:2])

    def attention_input(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """What the attention of decoder `layer` gets when `hidden` `[B, S, D]` enters the layer."""
        decoder_layer: Any = layer
        normed: Tensor = decoder_layer.input_layernorm(hidden)
        return normed

    def query(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated queries `[B, heads, S, d]` of decoder attention `attention` for its input `[B, S, D]`."""
        return self._rotated(self.decoder_heads(attention, "q", hidden), rotary)

    def key(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated keys `[B, kv_heads, S, d]`, likewise."""
        return self._rotated(self.decoder_heads(attention, "k", hidden), rotary)

    def decoder_heads(self, attention: Any, which: str, hidden: Tensor) -> Tensor:
        """Queries ("q") or keys ("k") `[B, S, heads, d]` of decoder attention `attention`, unrotated."""
        heads: Tensor = getattr(attention, f"{which}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{which}_norm", None)  # Qwen3 normalises each head
        return heads if norm is None else norm(heads)

    def _rotated(self, heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        heads = heads.transpose(1, 2)
        return type(self).rotate(heads, heads, *rotary)[0]

    def streamed(self, arguments: dict[str, Any], columns: tuple[int, int]) -> list[Tensor]:
        """What the first `streams` decoder layers add to the hidden states that leave them.

        Args:
            arguments: of `language_model`'s forward, by name.
            columns: `(B, L)`.

        Returns:
            `[B, L, D]` for each of these layers, zero where nothing is added.
        """
        return []

    def stream_arguments(self, streams: list[Tensor], stands: Tensor) -> dict[str, Any]:
        """The arguments of `language_model` that add `streams`, of the first layers, to packed tokens.

        Args:
            streams: `[n, D]` each, for the tokens of all rows, row after row.
            stands: `[B, width]` bool: where they stand; `n` entries are true.
        """
        return {}

    def part(self, arguments: dict[str, Any], frames: int) -> tuple[dict[str, Any], int]:
        """`encoding`'s arguments for one of the equal parts that are encoded apart, and how many there are.

        Counting one does for all. `frames`: of the video that `arguments` are for.
        """
        return arguments, 1

    def encode(self, arguments: dict[str, Any]) -> Any:
        """What `trunk` returns for `encoding`'s arguments on the meta device, where there are no values."""
        return getattr(self.trunk, self.encoder)(**arguments, return_dict=True)

    def encoding(self, frames: int, width: int, height: int) -> dict[str, Any]:
        """Arguments of `trunk`'s `encoder` for one video, its pixels on the meta device.

        Args:
            frames: of the video.
            width: of its frames, before the family's processor resizes them.
            height: likewise.

        Raises:
            UnsupportedModelError: the family does not say, so its costs cannot be counted.
        """
        raise UnsupportedModelError(f"counting costs is not supported for {type(self).__name__}")

    def no_importance(self, features: Tensor) -> Tensor:
        """What `VideoTokens.importance` holds when no method reads it: zeros `[T, N]`."""
        return torch.zeros(features.shape[:2], device=features.device)


def require_modules(attention: nn.Module, names: tuple[str, ...], whose: str) -> None:
    """Raise `UnsupportedModelError` unless `attention` has the projections that its read-outs go through.

    A quantised or fused attention that hides them cannot be read; linear layers that are quantised one by one
    can. `whose` says where in the model it is.
    """
    for name in names:
        if not callable(getattr(attention, name, None)):
            raise UnsupportedModelError(
                f"{whose} has a {type(attention).__name__} without {name}, so what it attends to cannot be "
                "read; load the model without the quantisation or kernel that replaces its attention"
            )
