"""The part of an adapter that reads the language model: which layers attend, queries, keys and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.contract import AnyStage


class DecoderAdapter:
    """Reads the language model of one model; families override what is different in theirs.

    Attributes:
        layers: the decoder's layers. Layers that attend have `self_attn`; others (gated delta nets) carry a
            state from token to token.
        streams: number of the first decoder layers whose output gets further visual features added.
    """

    layers: Any
    streams: int = 0

    language_arguments: tuple[str, ...] = ()
    """Arguments of `language_model`, besides those of every family, that `stream_arguments` replaces."""

    rotate: ClassVar[Callable[..., tuple[Tensor, Tensor]]] = staticmethod(apply_rotary_pos_emb)
    """The decoder's `apply_rotary_pos_emb`."""

    def attends(self, layer: int) -> bool:
        """Whether decoder layer `layer` (0-based) attends to keys; else it carries a recurrent state."""
        return hasattr(self.layers[layer], "self_attn")

    def ranked_by(self, stage: AnyStage) -> int:
        """The layer whose attention ranks tokens for `stage`: `stage.layer` itself or a layer before it.

        Where the stage's own choice is a layer without attention, the nearest attention layer before it
        ranks.

        Raises:
            SettingsError: there is no attention layer before it.
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

    def attention_input(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Input `[B, S, D]` of the attention of decoder `layer` when `hidden` `[B, S, D]` enters the
        layer."""
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
        """Visual features that are added to the output of the first `streams` decoder layers.

        Args:
            arguments: arguments of `language_model`'s forward, by name.
            columns: `(B, L)`.

        Returns:
            `[B, L, D]` for each of these layers, zero where nothing is added.
        """
        return []

    def stream_arguments(self, streams: list[Tensor], stands: Tensor) -> dict[str, Any]:
        """Arguments of `language_model` with which it adds `streams` to packed tokens.

        Args:
            streams: `[n, D]` for each of the first layers, for the tokens of all rows, row after row.
            stands: `[B, width]` bool: whether a token has streams; `n` entries are true.
        """
        return {}
