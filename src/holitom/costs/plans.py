"""Number of visual tokens in each layer, by method and budget, from shapes alone.

Numbers come from the methods' `merged_count` and inner stages. HoliTom's count depends on the video; here it
is `frames * ceil(tokens * r)`, the count for a video without static tokens, as in the paper's table.
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

EVERY_TOKEN = Method(retain_ratio=1.0)


@dataclass(frozen=True)
class Plan:
    """One row of the table: the visual tokens that enter the language model, and its inner stages.

    Attributes:
        label: method and budget.
        sent: visual tokens that enter the language model, without separators.
        inner: inner stages by rising layer.
        method: the method at its budget, which says what is read in the vision tower.
    """

    label: str
    sent: int
    inner: tuple[AnyStage, ...] = ()
    method: Method = EVERY_TOKEN

    def levels(self, separators: int = 0) -> list[Level]:
        """Visual tokens by layer, with `separators` (newlines), which inner stages count as visual tokens."""
        levels = [Level(0, self.sent + separators)]
        for stage in self.inner:
            levels.append(Level(stage.layer, stage.keep(levels[-1].tokens)))
        return levels


def plans(
    methods: Sequence[Choice], ratios: Sequence[float], frames: int, tokens: int, layers: int
) -> tuple[list[Plan], dict[str, str]]:
    """Plan full tokens, then `methods` at every ratio.

    Args:
        methods: the methods.
        ratios: retain ratios.
        frames: frames of the video.
        tokens: visual tokens of a frame.
        layers: number of layers of the language model.

    Returns:
        The plans; and reasons by label for methods that cannot be planned.

    Raises:
        SettingsError: a ratio is not in (0, 1].
    """
    found, refused = [Plan("full tokens", frames * tokens)], {}
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
        sent=frames * ceil(tokens * method.retain_ratio) if varies else method.merged_count(frames, tokens),
        inner=method.inner(layers),
        method=method,
    )
