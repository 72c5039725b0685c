"""PyramidDrop by hand."""

from __future__ import annotations

import pytest

from holitom.errors import SettingsError
from holitom.methods import PyramidDrop


def test_the_papers_stages() -> None:
    stages = PyramidDrop().inner(32)
    assert [stage.layer for stage in stages] == [8, 16, 24]
    assert all(stage.own_attention for stage in stages)
    left = 1000
    assert [left := stage.keep(left) for stage in stages] == [500, 250, 125]
    assert [stage.layer for stage in PyramidDrop().inner(28)] == [7, 14, 21]


def test_a_budget_is_the_mean_over_the_layers() -> None:
    # lambda = 0.2: (1 + 0.2 + 0.04 + 0.008) / 4
    assert [s.keep(1000) for s in PyramidDrop(0.312).inner(32)] == [200] * 3
    # one border at a tenth, lambda = 0.1: 0.1 + 0.9 * 0.1
    assert PyramidDrop(0.19, borders=(0.1,)).inner(40)[0].keep(1000) == 100
    assert PyramidDrop(0.1, stage_keep=0.3).inner(32)[0].keep(1000) == 300
    assert PyramidDrop(1.0).inner(32) == ()


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"first 8 of 32 layers: retain_ratio must be above 0\.25"):
        PyramidDrop(0.2).inner(32)
    with pytest.raises(SettingsError, match=r"fall on layers \[0, 1, 2\] of 2"):
        PyramidDrop().inner(2)
    for borders in [(), (0.5, 0.25), (0.5, 1.0), 0.5]:
        with pytest.raises(SettingsError, match="borders"):
            PyramidDrop(borders=borders)
    with pytest.raises(SettingsError, match="stage_keep"):
        PyramidDrop(stage_keep=0)
