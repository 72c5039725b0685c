"""FastV by hand."""

from __future__ import annotations

import pytest
import torch

from holitom.errors import SettingsError
from holitom.methods import FastV
from holitom.methods.fastv import DropInside


def test_the_most_attended_stay_as_they_were() -> None:
    hidden = torch.randn(5, 3)
    kept, features = DropInside(2, 0.4)(hidden, torch.tensor([0.1, 0.3, 0.2, 0.3, 0.1]))
    assert kept.tolist() == [1, 3]
    assert torch.equal(features, hidden[[1, 3]])


def test_settings() -> None:
    assert FastV(0.25).inner(28) == (DropInside(2, 0.25),)
    assert FastV(1.0).inner(28) == ()
    (stage,) = FastV(0.25, budget="mean").inner(28)
    assert 2 + 26 * stage.keep(10**9) / 10**9 == pytest.approx(7)  # layers' worth of tokens, of 28
    with pytest.raises(SettingsError, match=r"retain_ratio must be above 0\.07143, got 0\.05"):
        FastV(0.05, budget="mean").inner(28)
    with pytest.raises(SettingsError, match=r"inner_layer must be in 1\.\.3"):
        FastV(inner_layer=4).inner(4)
    with pytest.raises(SettingsError, match="inner_layer"):
        FastV(inner_layer=0)
    with pytest.raises(SettingsError, match="budget"):
        FastV(budget="some")  # type: ignore[arg-type]
