"""PyramidDrop (arXiv 2410.17247): drop visual tokens in several stages inside the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holitom.contract import InnerStage
from holitom.errors import SettingsError
from holitom.methods.base import Method, require
from holitom.methods.fastv import DropInside


@dataclass(frozen=True)
class PyramidDrop(Method):
    """Divide the layers into stages, and keep the share `lambda` of the visual tokens at each border.

    Tokens are ranked by the attention of the last instruction token, computed from the queries and keys of
    the layer behind the border. The paper's borders are layers 8, 16 and 24 of 32, and its `lambda` is 0.5.

    The budget is the mean over all layers: with four equal stages `(1 + lambda + lambda^2 + lambda^3) / 4`,
    0.46875 for the paper's `lambda`, the default here; for other ratios `lambda` is solved. The first stage
    sees all tokens, so ratios up to its share of the layers (1/4) cannot be met with these borders, but with
    earlier ones. Where `lambda` of a few tokens rounds to none, one stays (a detail of our own).

    Attributes:
        retain_ratio: share of the visual tokens that the layers see on average, in (0, 1].
        borders: layers at which stages begin after the first, as shares of all layers, rising, in (0, 1).
        stage_keep: `lambda`, in (0, 1]; `retain_ratio` is ignored then. None: solved for `retain_ratio`.
    """

    retain_ratio: float = 0.46875
    borders: tuple[float, ...] = (0.25, 0.5, 0.75)
    stage_keep: float | None = None

    usual: ClassVar[dict[str, str]] = {"stage_keep": "from retain_ratio"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.borders, tuple):
            raise SettingsError(f"borders must be a tuple of numbers in (0, 1), got {self.borders!r}")
        for border in self.borders:
            require("borders", border, "numbers in (0, 1)", lambda v: 0 < v < 1)
        if not self.borders or list(self.borders) != sorted(set(self.borders)):
            raise SettingsError(f"borders must be one or more rising numbers, got {self.borders!r}")
        if self.stage_keep is not None:
            require("stage_keep", self.stage_keep, "a number in (0, 1]", lambda v: 0 < v <= 1)

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """One inner stage at each border, rounded to a layer.

        Raises:
            SettingsError: the model has too few layers, or the layers before the first border exceed the
                budget.
        """
        layers = [round(num_layers * border) for border in self.borders]
        if layers[0] < 1 or len({*layers, num_layers}) <= len(layers):
            raise SettingsError(
                f"borders {self.borders!r} fall on layers {layers} of {num_layers}, which must rise "
                f"from 1 to {num_layers - 1}"
            )
        keep = self.stage_keep or self._solved(layers, num_layers)
        return () if keep == 1 else tuple(DropInside(layer, keep, own_attention=True) for layer in layers)

    def _solved(self, layers: list[int], num_layers: int) -> float:
        """Solve for the `lambda` at which the mean over the layers is `retain_ratio`."""
        least = layers[0] / num_layers
        if self.retain_ratio <= least:
            raise SettingsError(
                f"PyramidDrop shows every token to the first {layers[0]} of {num_layers} layers: "
                f"retain_ratio must be above {least:.4g} (or its borders earlier), got {self.retain_ratio!r}"
            )
        if self.retain_ratio == 1:
            return 1.0
        lengths = [end - start for start, end in zip([0, *layers], [*layers, num_layers], strict=True)]
        low, high = 0.0, 1.0
        for _ in range(53):  # halves the interval down to a float's last bit
            middle = (low + high) / 2
            mean = sum(length * middle**stage for stage, length in enumerate(lengths)) / num_layers
            low, high = (middle, high) if mean < self.retain_ratio else (low, middle)
        return high
