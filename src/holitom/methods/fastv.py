"""FastV (arXiv 2403.06764): drop the least attended visual tokens after the first layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from holitom.contract import InnerStage
from holitom.errors import SettingsError
from holitom.methods.base import Method, choose, require_layer
from holitom.ops.budgets import kept_share
from holitom.ops.merging import most_attended


@dataclass(frozen=True)
class FastV(Method):
    """Keep all tokens before layer `K` of the language model, and the most attended ones from `K` on.

    At layer `K` those `round(r V)` visual tokens stay that get the most attention from the last query in
    layer `K - 1`, averaged over heads; the rest are dropped. Where that rounds to none, one stays (a detail
    of our own).

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
        self._check_layers("inner_layer")
        choose("budget", self.budget, "layer", "mean")

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """One stage, at `inner_layer`.

        Raises:
            SettingsError: the model has no such layer, or the layers before it exceed the budget.
        """
        layer, keep = self.inner_layer, self.retain_ratio
        require_layer(layer, num_layers)
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
    """An inner stage that keeps the most attended visual tokens as they are and drops the others.

    Attributes:
        layer: layer (0-based) whose incoming hidden states the stage acts on.
        share: share of the visual tokens kept.
        own_attention: whether the attention that ranks is that of `layer` itself; else of the layer before.
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
