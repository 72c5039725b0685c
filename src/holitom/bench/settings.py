"""Settings of a benchmark: methods at budgets, and budgets that a method refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holitom.errors import SettingsError
from holitom.methods.base import Method, require
from holitom.methods.choose import FULL as FULL_NAME
from holitom.methods.choose import Choice


@dataclass(frozen=True)
class Setting:
    """One method at one budget, or full tokens.

    Attributes:
        name: the method as it was written; `full` for full tokens.
        label: name in tables, without the budget.
        retain_ratio: the budget.
        method: the method; None for full tokens and for a refused setting.
        refused: the method's reason for refusing the setting; None: it runs.
    """

    name: str
    label: str
    retain_ratio: float
    method: Method | None
    refused: str | None = None

    @property
    def title(self) -> str:
        return self.label if self.name == FULL.name else f"{self.label} {100 * self.retain_ratio:g}%"

    @property
    def slug(self) -> str:
        """Name of the setting's results file."""
        return re.sub(r"[^\w.=+@-]+", "_", f"{self.name}@{self.retain_ratio!r}")


FULL = Setting(FULL_NAME, "full tokens", 1.0, None)


def budgets(methods: Sequence[Choice], ratios: Sequence[float]) -> list[Setting]:
    """List full tokens and every method at every budget, larger budgets first; some may be refused.

    Raises:
        SettingsError: a ratio is not in (0, 1].
    """
    for ratio in ratios:
        require("retain", ratio, "numbers in (0, 1]", lambda r: 0 < r <= 1)
    found = {(FULL.name, 1.0): FULL}
    for choice in methods:
        if choice.name == FULL.name:
            continue
        for ratio in ratios if choice.retain_ratio is None else (choice.retain_ratio,):
            try:
                setting = Setting(choice.text, choice.label, ratio, choice.make(ratio))
            except SettingsError as error:
                setting = Setting(choice.text, choice.label, ratio, None, str(error))
            found[choice.text, ratio] = setting
    return sorted(found.values(), key=lambda setting: -setting.retain_ratio)
