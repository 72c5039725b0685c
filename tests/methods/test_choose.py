"""Methods as people write them: what is meant, and one clear sentence for what cannot be."""

from __future__ import annotations

import pytest

from holitom import HoliTom, Method, SettingsError
from holitom.methods import (
    EVS,
    METHODS,
    Combined,
    FastV,
    FlashVID,
    HoliTomPlus,
    PyramidDrop,
    VisionZip,
    get_method,
    method_class,
)
from holitom.methods.choose import read_method, read_methods


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
        ("magic", r"unknown method 'magic'; known: holitom, holitom-outer, .*pdrop, full"),
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
        ("fastv+inner", "FastV has inner stages of its own, so it takes none of HoliTom's"),
        ("flashvid+inner", "FlashVID has inner stages of its own"),
        ("pdrop+inner", "PyramidDrop has inner stages of its own"),
        ("holitom+inner[knn=3]", r"holitom has that inner stage; write its settings as holitom\[...\]"),
        ("holitom-outer+inner", "both with and without an inner stage"),
        ("evs+inner[inner_drop=none]", "HoliTom, with these settings, has no inner stages to add to EVS"),
        ("full[retain_ratio=0.5]", "full keeps every token.*retain_ratio needs another method"),
        ("full+inner", "full keeps every token.*an inner stage needs another method"),
    ],
)
def test_what_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_methods(text)


INSIDE = ("holitom", "holitom-plus", "flashvid", "unified", "earlytom", "fastv", "pdrop")


@pytest.mark.parametrize("name", METHODS)
def test_whether_a_method_merges_inside_is_what_its_stages_say(name: str) -> None:
    method = get_method(name, retain_ratio=0.5)
    assert method.merges_inside == (name in INSIDE) == bool(method.inner(28))


@pytest.mark.parametrize("name", METHODS)
def test_inner_adds_holitoms_stage_to_a_method_without_one_and_to_no_other(name: str) -> None:
    outer = get_method(name, retain_ratio=0.5)
    if name in ("holitom", "holitom-plus"):  # it is their own
        assert read_method(name, {"retain_ratio": 0.5}, inner=True).make() == outer
    elif name in INSIDE:
        with pytest.raises(SettingsError, match=f"{type(outer).__name__} has inner stages of its own"):
            read_method(name, inner=True)
    else:
        assert read_method(f"{name}+inner").make(0.5) == outer.with_inner(HoliTom())
        assert read_method(name, {"retain_ratio": 0.5}, inner=True).make() == outer.with_inner(HoliTom())
    if name in INSIDE:
        for combine in (outer.with_inner, lambda inside: Combined(outer, inside)):
            with pytest.raises(SettingsError, match="has inner stages of its own"):
                combine(HoliTom())


@pytest.mark.parametrize("name", METHODS)
def test_no_inner_leaves_out_the_methods_own_stages_or_is_refused(name: str) -> None:
    if name in ("fastv", "pdrop"):
        with pytest.raises(SettingsError, match="works inside the language model alone"):
            read_method(name, inner=False)
        with pytest.raises(SettingsError, match="works inside the language model alone"):
            get_method(name).without_inner()
        return
    method = read_method(name, {"retain_ratio": 0.5}, inner=False).make()
    assert type(method) is method_class(name)
    assert method.retain_ratio == 0.5
    assert method.inner(28) == ()
    assert method.without_inner() == method


def test_what_without_inner_is() -> None:
    assert HoliTom(0.2).without_inner() == HoliTom(0.2, inner_drop=None)
    assert HoliTomPlus(0.2, knn=3).without_inner() == HoliTomPlus(0.2, knn=3, inner_drop=None)
    assert FlashVID(0.2).without_inner() == FlashVID(0.2, expansion=1)
    assert EVS(0.2).with_inner(FastV()).without_inner() == EVS(0.2)


@pytest.mark.parametrize(
    "combine",
    [
        lambda: HoliTom().with_inner(FastV()),
        lambda: EVS().with_inner(HoliTom()).with_inner(FastV()),
        lambda: Combined(FlashVID(), HoliTom()),
        lambda: EVS().with_inner(VisionZip()),
        lambda: EVS().with_inner(HoliTom(inner_drop=None)),
        lambda: EVS().with_inner(Method(1)),
    ],
)
def test_combinations_that_would_run_something_else_than_they_say(combine) -> None:
    with pytest.raises(SettingsError, match="inner stages"):
        combine()


def test_a_method_set_without_inner_stages_takes_anothers() -> None:
    assert HoliTom(inner_drop=None).with_inner(PyramidDrop()).inner(28) == PyramidDrop().inner(28)
    assert FlashVID(expansion=1).with_inner(FastV(0.5)).inner(28) == FastV(0.5).inner(28)


def test_settings_beside_the_text() -> None:
    assert read_method("evs", {"retain_ratio": 0.3}).make() == EVS(0.3)
    assert read_method("evs[retain_ratio=0.3]").make(0.1) == EVS(0.3)
    with pytest.raises(SettingsError, match="retain_ratio is set twice"):
        read_method("evs[retain_ratio=0.3]", {"retain_ratio": 0.3})
    assert read_method("full").make(0.1) == Method(retain_ratio=1)
    assert read_method("full", inner=False).make() == Method(retain_ratio=1)


def test_labels_say_what_runs() -> None:
    wishes = {
        ("holitom", False): "HoliTom w/o M",
        ("holitom", True): "HoliTom",
        ("holitom-plus", False): "HoliTomPlus w/o M",
        ("flashvid", False): "FlashVID w/o inner",
        ("evs", False): "EVS",
        ("evs", True): "EVS + inner",
        ("full", None): "full tokens",
    }
    for (name, inner), label in wishes.items():
        assert read_method(name, inner=inner).label == label
    assert read_method("visionzip+inner[knn=3]").label == "VisionZip + inner [knn=3]"


@pytest.mark.parametrize("name", METHODS)
def test_the_ratios_that_are_listed_are_those_that_can_be_met(name: str) -> None:
    """The ends of each method's interval, on a decoder of 28 layers and 20 frames."""
    lower, upper = METHODS[name].ratios[1:-1].split(", ")
    least = {"1/T": 1 / 20, "1/N": 1 / 10}.get(lower) or float(lower)
    closed = METHODS[name].ratios.startswith("[")

    def sent(ratio: float) -> float:
        method = get_method(name, retain_ratio=ratio)
        method.inner(28)
        return 0.0 if method.count_varies or name == "holitom" else method.merged_count(20, 10) / 200

    assert upper == "1"
    sent(1.0)
    assert sent(least if closed else least + 0.01) <= max(1.0 if name in INSIDE else 0, least + 0.02)
    if least == 0:
        return
    if name in ("evs", "vcast"):  # keep the first frame, or a token of each, whatever is asked
        assert sent(least / 2) > least / 2
    else:
        with pytest.raises(SettingsError, match="retain_ratio"):
            sent(least if not closed else 0.9 * least)


def test_each_line_of_the_list_fits_a_terminal() -> None:
    assert max(len(row.does) for row in METHODS.values()) <= 46
