"""How many visual tokens each layer works on, by method and budget, from shapes alone.

Lengths follow from the methods' own `merged_count` and inner stages. HoliTom's count depends on the video; it
is taken to send `frames * ceil(tokens * r)`, what it sends of a video without static tokens and what the
paper's table was computed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from holitom.contract import AnyStage
from holitom.costs.decoder import Level
from holitom.errors import SettingsError
from holitom.methods import HoliTom, Method
from holitom.methods.choose import FULL, Choice


@dataclass(frozen=True)
class Plan:
    """One row: how many visual tokens go into the language model, and where inside it they get fewer.

    Attributes:
        label: method and budget.
        retain_ratio: the budget.
        sent: visual tokens, without separators.
        inner: reductions by rising layer.
        needs_importance: whether the vision tower's last attention is read besides.
        needs_keys: whether its keys are.
        needs_shallow: whether an early attention of it is read.
    """

    label: str
    retain_ratio: float
    sent: int
    inner: tuple[AnyStage, ...] = ()
    needs_importance: bool = False
    needs_keys: bool = False
    needs_shallow: bool = False

    def levels(self, separators: int = 0) -> list[Level]:
        """Visual tokens by layer, `separators` (newlines) among them, as inner stages count them."""
        levels = [Level(0, self.sent + separators)]
        for stage in self.inner:
            levels.append(Level(stage.layer, stage.keep(levels[-1].tokens)))
        return levels


def plans(
    methods: Sequence[Choice], ratios: Sequence[float], frames: int, tokens: int, layers: int
) -> tuple[list[Plan], dict[str, str]]:
    """Full tokens, then `methods` at every ratio, on `frames` of `tokens` each and a decoder of `layers`.

    Returns:
        The plans; and by label what cannot be planned, with the reason.

    Raises:
        SettingsError: a ratio is not in (0, 1].
    """
    found, refused = [Plan("full tokens", 1.0, frames * tokens)], {}
    for ratio in ratios:
        Method(retain_ratio=ratio)
    for choice in methods:
        if choice.name == FULL:
            continue
        own = choice.retain_ratio is not None
        for ratio in ratios[:1] if own else ratios:
            label = choice.label if own else f"{choice.label} {100 * ratio:g}%"
            try:
                found.append(_plan(label, choice.make(ratio), frames, tokens, layers))
            except SettingsError as error:
                refused[label] = str(error)
    return found, refused


def _plan(label: str, method: Method, frames: int, tokens: int, layers: int) -> Plan:
    varies = isinstance(method, HoliTom) and method.budget == "ratio"
    return Plan(
        label=label,
        retain_ratio=method.retain_ratio,
        sent=frames * ceil(tokens * method.retain_ratio) if varies else method.merged_count(frames, tokens),
        inner=method.inner(layers),
        needs_importance=method.needs_importance,
        needs_keys=method.needs_keys,
        needs_shallow=method.needs_shallow,
    )
