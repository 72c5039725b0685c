"""FastV (arXiv 2403.06764): after two layers, an image is worth half of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from holitom.contract import InnerStage
from holitom.errors import SettingsError
from holitom.methods.base import Method, choose, require
from holitom.ops.budgets import kept_share
from holitom.ops.merging import most_attended


@dataclass(frozen=True)
class FastV(Method):
    """All tokens enter the language model; from layer `K` on the most attended `r` of them go on.

    At layer `K` the `round(r V)` visual tokens stay to which the last query paid most attention in layer
    `K - 1`, averaged over heads; the rest are dropped. Where that rounds to none, one stays (ours).

    Attributes:
        retain_ratio: share of the visual tokens that layers from `K` on see, in (0, 1].
        inner_layer: `K`, 0-based, from 1 on.
        budget: "layer": `retain_ratio` is the share kept from layer `K` on, as in the paper. "mean": it is
            the mean over all layers, `(K + (L - K) keep) / L`, so it must be above `K / L`.
    """

    inner_layer: int = 2
    budget: Literal["layer", "mean"] = "layer"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("inner_layer", self.inner_layer, "a layer from 1 up", lambda v: v >= 1, whole=True)
        choose("budget", self.budget, "layer", "mean")

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """One stage, at `inner_layer`.

        Raises:
            SettingsError: the model has no such layer, or the layers before it exceed the budget.
        """
        layer = self.inner_layer
        if layer >= num_layers:
            raise SettingsError(
                f"inner_layer must be in 1..{num_layers - 1} of the model's {num_layers} layers, got {layer}"
            )
        keep = self.retain_ratio
        if self.budget == "mean":
            keep = (keep * num_layers - layer) / (num_layers - layer)
            if keep <= 0:
                raise SettingsError(
                    f"FastV shows every token to the first {layer} of {num_layers} layers: with "
                    f'budget="mean" retain_ratio must be above {layer / num_layers:.4g}, '
                    f"got {self.retain_ratio!r}"
                )
        return () if keep == 1 else (DropInside(layer, keep),)


@dataclass(frozen=True)
class DropInside:
    """The most attended visual tokens stay as they are, the others are dropped.

    Attributes:
        layer: acts on the hidden states that enter this layer (0-based).
        share: share of the visual tokens kept.
        own_attention: whether `layer` itself ranks them, or the layer before.
    """

    layer: int
    share: float
    own_attention: bool = False

    def keep(self, visual: int) -> int:
        """`round(V * share)` of `visual` tokens, at least one of any."""
        return kept_share(self.share, visual)

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Kept indices `[K]`, ascending, and their features `[K, D]` of `hidden` `[V, D]`."""
        kept, _ = most_attended(attention, self.keep(len(hidden)))
        return kept, hidden.index_select(0, kept)
