"""Costs of a language model from its config alone: widths of layers, operations, and bytes of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Level(NamedTuple):
    """A number of tokens that the language model works on, from layer `start` (0-based) on."""

    start: int
    tokens: int


class Span(NamedTuple):
    """Consecutive layers of the language model that work on equally many tokens."""

    layers: range
    tokens: int


def spans(levels: Sequence[Level], layers: int) -> list[Span]:
    """The layers of each level, in order.

    Args:
        levels: levels by rising start; the first starts at 0.
        layers: number of layers of the language model.
    """
    ends = [*(level.start for level in levels[1:]), layers]
    return [Span(range(level.start, end), level.tokens) for level, end in zip(levels, ends, strict=True)]


class Layer(NamedTuple):
    """One layer of a language model.

    Attributes:
        ffn: width of the feed-forward network that each token goes through; in a mixture of experts, the sum
            of the widths of a token's own experts and of the experts that all tokens share.
        attends: whether the layer attends to keys; else it carries a recurrent state from token to token.
        cached: elements of the keys and values cached for one token; 0 where the layer does not attend.
    """

    ffn: int
    attends: bool = True
    cached: int = 0


@dataclass(frozen=True)
class Decoder:
    """A language model.

    Attributes:
        width: width of the hidden states.
        layers: all layers, from the first on.
    """

    width: int
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """Read a transformers config, of a video model or of a language model alone."""
        text: Any = config.get_text_config()
        kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        cached = 2 * text.num_key_value_heads * head
        return cls(
            text.hidden_size,
            tuple(
                Layer(_feed_forward(text, index), attends=False)
                if kind == "linear_attention"
                else Layer(_feed_forward(text, index), True, cached)
                for index, kind in enumerate(kinds)
            ),
        )

    def prefill(self, levels: Sequence[Level]) -> int:
        """Operations of a prefill in all layers by the paper's formula, see `layer_operations`."""
        return sum(
            layer_operations(span.tokens, self.width, self.layers[index].ffn, self.layers[index].attends)
            for span in spans(levels, len(self.layers))
            for index in span.layers
        )

    def kv_bytes(self, levels: Sequence[Level], itemsize: int) -> int:
        """Bytes of the keys and values of all layers that cache any.

        Args:
            levels: tokens by layer.
            itemsize: bytes of one element of the cache.
        """
        return itemsize * sum(
            span.tokens * self.layers[index].cached
            for span in spans(levels, len(self.layers))
            for index in span.layers
        )

    def to_dict(self) -> dict[str, Any]:
        """Number of layers, width, and feed-forward widths: one number where all layers have the same."""
        widths = [layer.ffn for layer in self.layers]
        ffn = widths[0] if len(set(widths)) == 1 else widths
        return {"layers": len(self.layers), "width": self.width, "ffn": ffn}


def layer_operations(tokens: int, width: int, ffn: int, attends: bool = True) -> int:
    """The paper's prefill cost of `n` visual tokens in one layer: `4 n d^2 + 2 n^2 d + 2 n d m`.

    The formula is HoliTom's (arXiv 2505.21334) and FastV's (2403.06764). It counts multiply-adds of four
    square projections, of attention, and of a feed-forward network with two matrices. Qwen2 has narrower keys
    and values and three matrices in that network, so counted operations differ by more than a factor of two.
    A layer that carries a recurrent state has no term in `n^2`.

    Args:
        tokens: `n`.
        width: `d`, width of the hidden states.
        ffn: `m`, width of the feed-forward network.
        attends: whether the layer attends to keys.
    """
    attention = 2 * tokens**2 * width if attends else 0
    return 4 * tokens * width**2 + attention + 2 * tokens * width * ffn


def _feed_forward(text: Any, layer: int) -> int:
    """`Layer.ffn` of `layer`."""
    if not _has_experts(text, layer):
        return int(text.intermediate_size)
    chosen = text.num_experts_per_tok + (getattr(text, "n_shared_experts", None) or 0)
    shared = getattr(text, "shared_expert_intermediate_size", None) or 0
    return int(chosen * text.moe_intermediate_size + shared)


def _has_experts(text: Any, layer: int) -> bool:
    """Whether `layer` is a mixture of experts: GLM's configs count the first ones that are not, Qwen3's list
    them."""
    if not getattr(text, "num_experts_per_tok", None):
        return False
    every = getattr(text, "decoder_sparse_step", None) or 1
    dense = getattr(text, "mlp_only_layers", None) or ()
    first = getattr(text, "first_k_dense_replace", None) or 0
    return layer >= first and layer not in dense and (layer + 1) % every == 0
