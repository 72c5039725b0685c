"""Methods as people write them: what is meant, and one clear sentence for what cannot be."""

from __future__ import annotations

import pytest

from holitom import HoliTom, SettingsError
from holitom.methods import METHODS, FastV, PyramidDrop, VisionZip
from holitom.methods.choose import read_methods


def test_all_are_the_registry_s_and_holitom_without_its_inner_stage() -> None:
    named = read_methods("all")
    assert {method.text for method in named} == {*METHODS, "holitom-outer"}
    labels = [method.label for method in named]
    assert labels[:2] == ["HoliTom", "HoliTom w/o M"]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("text", "ratio", "method"),
    [
        ("holitom", 0.2, HoliTom(0.2)),
        ("holitom-outer", 0.2, HoliTom(0.2, inner_drop=None)),
        (
            "holitom[knn=5, budget=exact,center_weight=.5]",
            0.1,
            HoliTom(0.1, knn=5, budget="exact", center_weight=0.5),
        ),
        ("holitom[inner_drop=none,similarity_threshold=0.9]", 0.1, HoliTom(0.1, 0.9, inner_drop=None)),
        ("fastv[inner_layer=3,budget=mean]", 0.9, FastV(0.9, inner_layer=3, budget="mean")),
        ("pdrop[borders=(0.1,0.5),stage_keep=0.5]", 0.3, PyramidDrop(0.3, (0.1, 0.5), 0.5)),
        ("visionzip+inner", 0.1, VisionZip(0.1).with_inner(HoliTom())),
        ("visionzip[dominant_ratio=0.5]+inner[inner_drop=0.3]", 0.1,
         VisionZip(0.1, dominant_ratio=0.5).with_inner(HoliTom(inner_drop=0.3))),
        ("holitom[retain_ratio=0.3]", 0.1, HoliTom(0.3)),
    ],
)  # fmt: skip
def test_what_is_written_is_what_runs(text: str, ratio: float, method: object) -> None:
    assert [named.make(ratio) for named in read_methods(text)] == [method]


def test_commas_part_methods_and_settings() -> None:
    text = "pdrop[borders=(0.1,0.5),stage_keep=0.5], evs ,visionzip+inner[knn=3,inner_layer=2],evs"
    assert [named.label for named in read_methods(text)] == [
        "PyramidDrop [borders=(0.1,0.5),stage_keep=0.5]",
        "EVS",
        "VisionZip + inner [knn=3,inner_layer=2]",
    ]
    assert len(read_methods("evs,all,visionzip+inner")) == len(METHODS) + 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", r"unknown method 'magic'; known: holitom, holitom-outer, .*pdrop"),
        ("evs,", "written as name, name.setting=value,.... or name.inner"),
        ("holitom[knn=5", "written as name"),
        ("visionzip+evs", "written as name"),
        ("holitom[size=5]", "holitom has no setting 'size'; it has retain_ratio, .*knn"),
        ("visionzip+inner[size=5]", "holitom has no setting 'size'"),
        ("holitom[knn]", "setting=value, not 'knn'"),
        ("holitom[knn=]", "setting=value, not 'knn='"),
        ("holitom[knn=3,knn=4]", "knn is set twice"),
        ("holitom[knn=0]", "knn must be a whole number from 1 up, got 0"),
        ("holitom[knn=many]", "knn must be .* got 'many'"),
        ("pdrop[borders=0.2]", "borders must be a tuple"),
        ("dycoke[retain_ratio=0.1]", r"retain_ratio must be in \[0.25, 1\], got 0.1"),
        ("holitom-outer[inner_drop=0.3]", "inner_drop=none.*twice"),
        ("fastv+inner", "fastv works inside the language model alone"),
    ],
)
def test_what_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_methods(text)
