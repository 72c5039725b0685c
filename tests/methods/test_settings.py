"""Every setting of every method is looked at: its type, its range, and what stands for a default."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from torch import nn

from holitom.errors import SettingsError
from holitom.methods import METHODS, Combined, HoliTom, HoliTomPlus, get_method, method_class

SETTINGS = [(name, field.name) for name in METHODS for field in fields(method_class(name)) if field.init]
NEVER: list[Any] = [math.nan, math.inf, -math.inf, -3, 10**30, 10**400, "a lot", True, [], {}, 1j, object()]

each_setting = pytest.mark.parametrize(("name", "setting"), SETTINGS)


@each_setting
@pytest.mark.parametrize("value", NEVER, ids=lambda value: f"{value!r:.12}")
def test_what_no_setting_can_be_is_refused_by_name(name: str, setting: str, value: Any) -> None:
    if value is True and isinstance(getattr(get_method(name), setting), bool):
        return
    with pytest.raises(SettingsError, match=setting) as error:
        get_method(name, **{setting: value})
    assert repr(value) in str(error.value)


def test_a_model_in_the_place_of_a_setting_is_named_in_one_line() -> None:
    """`HoliTom(model)` is near `HoliTom()(model)`, and a model prints as hundreds of lines."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(SettingsError, match=r"retain_ratio must be a number in \(0, 1\], got a Sequential$"):
        HoliTom(model)  # type: ignore[arg-type]


@each_setting
def test_what_none_stands_for_is_shown(name: str, setting: str) -> None:
    made = get_method(name)
    assert "None" not in repr(made)
    assert f"{setting}=" in repr(made)
    assert repr(made).startswith(f"{type(made).__name__}(retain_ratio=")


THRESHOLDS = [(name, setting) for name, setting in SETTINGS if setting.endswith("threshold")]


@pytest.mark.parametrize(("name", "setting"), THRESHOLDS)
def test_thresholds_are_cosine_similarities(name: str, setting: str) -> None:
    for value in (-1, 0, 0.5, 1, np.float32(0.5)):
        assert getattr(get_method(name, **{setting: value}), setting) == value
    for value in (1.001, -1.001, 3):
        with pytest.raises(SettingsError, match=rf"{setting} must be a number in \[-1, 1\], got {value}"):
            get_method(name, **{setting: value})


def test_a_default_in_force_is_the_one_that_is_used() -> None:
    assert "similarity_threshold=0.65" in repr(HoliTom(0.1))
    assert "similarity_threshold=0.8" in repr(HoliTom(0.2))
    assert "similarity_threshold=0.8" in repr(HoliTomPlus(0.1))
    assert "similarity_threshold=0.7" in repr(HoliTom(0.1, similarity_threshold=0.7))
    assert "inner_layer='18 of 28'" in repr(HoliTom())
    assert "inner_layer=3" in repr(HoliTom(inner_layer=3))
    assert "similarity_threshold=0.65" in repr(get_method("evs").with_inner(HoliTom(0.1)))


def test_methods_are_combined_of_methods() -> None:
    with pytest.raises(SettingsError, match="inside must be a method, got 'holitom'"):
        HoliTom().with_inner("holitom")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="outer must be a method, got None"):
        Combined(None, HoliTom())  # type: ignore[arg-type]
