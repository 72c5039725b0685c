"""What a serving team may write under "holitom", and what is refused. Runs without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.tiny import build_config

from holitom import HoliTom, Reuse, SettingsError
from holitom.integrations.vllm import check
from holitom.integrations.vllm.contract import READ, TESTED, known
from holitom.integrations.vllm.settings import method_of
from holitom.methods import get_method

EXACT = {"budget": "exact", "inner_drop": None}


def config(holitom: object = None) -> Any:
    made = build_config()
    if holitom is not None:
        made.holitom = holitom
    return made


def served(
    holitom: object = None, architecture: str = "LlavaOnevisionForConditionalGeneration", prunes: bool = False
) -> Any:
    """As much of vLLM's ModelConfig as the plugin reads."""
    multimodal = SimpleNamespace(is_multimodal_pruning_enabled=lambda: prunes)
    return SimpleNamespace(hf_config=config(holitom), architecture=architecture, multimodal_config=multimodal)


def test_no_entry_is_no_method() -> None:
    assert method_of(config()) is None
    assert check(served(), "0.1") is None
    empty = served()
    empty.hf_config.holitom = None
    assert check(empty, "0.1") is None
    assert check(served(architecture="LlamaForCausalLM"), "9.9") is None


def test_holitom_merges_to_an_exact_budget_before_the_language_model_only() -> None:
    assert method_of(config({})) == HoliTom(**EXACT)
    settings = {"retain_ratio": 0.2, "similarity_threshold": 0.7}
    assert method_of(config(settings)) == HoliTom(**settings, **EXACT)
    assert settings == {"retain_ratio": 0.2, "similarity_threshold": 0.7}, "the config's own is untouched"


@pytest.mark.parametrize("name", ["visionzip", "fastvid", "vidcom2", "evs", "dycoke", "random", "uniform"])
def test_outer_baselines_come_with_it(name: str) -> None:
    assert method_of(config({"method": name, "retain_ratio": 0.5})) == get_method(name, retain_ratio=0.5)


def test_flashvid_without_more_than_its_budget_before_the_model_comes_too() -> None:
    method = method_of(config({"method": "flashvid", "retain_ratio": 0.25, "expansion": 1}))
    assert method is not None
    assert method.merged_count(16, 196) == 784


@pytest.mark.parametrize("name", ["flashvid", "unified"])
def test_what_is_refused_for_its_inner_stage_comes_without_it(name: str) -> None:
    method = method_of(config({"method": name, "retain_ratio": 0.25, "inner": False}))
    assert method == get_method(name, retain_ratio=0.25).without_inner()


@pytest.mark.parametrize(
    "entry",
    [
        {"method": "holitom-plus", "retain_ratio": 0.2},
        {"method": "holitom-plus[retain_ratio=0.2]"},
        {"method": "holitom-plus", "retain_ratio": 0.2, "inner": False},
        {"method": "holitom-plus", "retain_ratio": 0.2, "inner_drop": None},
    ],
)
def test_holitom_plus_comes_without_its_inner_stage(entry: dict[str, Any]) -> None:
    assert method_of(config(entry)) == get_method("holitom-plus", retain_ratio=0.2, inner_drop=None)


@pytest.mark.parametrize(
    ("given", "reuse"),
    [
        (True, True),
        (False, False),
        ({}, Reuse()),
        ({"threshold": 8, "reach": 4}, Reuse(threshold=8, reach=4)),
        ({"pixel_std": [0.5, 0.5, 0.25]}, Reuse(pixel_std=(0.5, 0.5, 0.25))),
    ],
    ids=str,
)
def test_reuse_is_written_as_in_python_or_as_its_settings(given: object, reuse: Reuse | bool) -> None:
    assert check(served({"reuse": given}), "0.32.0") == HoliTom(**EXACT, reuse=reuse)


def test_a_tower_that_cannot_reuse_is_refused_before_anything_loads() -> None:
    from holitom import UnsupportedModelError

    model = served({"reuse": True})
    model.hf_config.vision_config.model_type = "pixtral"
    with pytest.raises(UnsupportedModelError, match=r"'pixtral'.*supported: .*siglip"):
        check(model, "0.32.0")
    model.hf_config.holitom = {"reuse": False}
    assert check(model, "0.32.0") is not None


def test_without_an_inner_stage_written_out_it_is_the_same() -> None:
    for entry in ({"inner": False}, {"method": "holitom-outer"}, {"method": "holitom[inner_drop=none]"}):
        assert method_of(config(entry)) == HoliTom(**EXACT)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"retain_ratio": 0}, "retain_ratio must be a number in (0, 1], got 0"),
        ({"retain_ratio": 2}, "retain_ratio must be a number in (0, 1], got 2"),
        ({"retain_ratio": "a lot"}, "retain_ratio must be a number in (0, 1], got 'a lot'"),
        (0.1, 'settings such as {"retain_ratio": 0.1}, got 0.1'),
        ({"ratio": 0.1}, "no setting 'ratio'"),
        ({"method": "tome"}, "unknown method 'tome'"),
        ({"method": ["evs"]}, "unknown method"),
        ({"reuse": 8}, "reuse must be True, False or a holitom.Reuse, got 8"),
        ({"reuse": {"treshold": 8}}, "reuse has no setting 'treshold'; known: threshold, reach, pixel_std"),
        ({"reuse": {"threshold": 300}}, "threshold must be a number in [0, 255]"),
        ({"method": "earlytom", "in_tower": True, "inner": False}, "leave in_tower out"),
        ({"inner_drop": 0.5}, "paged KV cache"),
        ({"inner": True}, "paged KV cache"),
        ({"inner": "no"}, "inner must be true or false, got 'no'"),
        ({"method": "evs+inner"}, "paged KV cache"),
        ({"method": "fastv"}, "paged KV cache"),
        ({"method": "pdrop", "retain_ratio": 0.5}, "paged KV cache"),
        ({"budget": "ratio"}, "exact"),
        ({"method": "prunevid"}, "depends on what the video shows"),
        ({"method": "flashvid", "retain_ratio": 0.25}, "paged KV cache"),
        ({"method": "unified", "retain_ratio": 0.25}, 'set "inner": false'),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(entry: object, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check(served(entry), "0.32.0")
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["HoliTom", "holi_tom", "holitm", "holitome", "holi-tom", "holitom_"])
def test_an_entry_by_another_name_is_not_served_with_full_tokens(name: str) -> None:
    """vLLM takes any name among the overrides."""
    model_config = served()
    setattr(model_config.hf_config, name, {"retain_ratio": 0.1})
    with pytest.raises(SettingsError, match=rf'an entry {name!r}; the name of the entry is "holitom"'):
        check(model_config, "0.32.0")


def test_an_entry_in_another_place_is_not_served_with_full_tokens() -> None:
    model_config = served()
    model_config.hf_config.text_config.holitom = {"retain_ratio": 0.1}
    with pytest.raises(SettingsError, match=r'"holitom" inside .*text_config.; it belongs beside it'):
        check(model_config, "0.32.0")


def test_a_model_that_is_not_known_is_not_served_with_full_tokens() -> None:
    from holitom import UnsupportedModelError

    with pytest.raises(UnsupportedModelError, match=r"InternVLChatModel.*LlavaOnevision"):
        check(served({"retain_ratio": 0.1}, "InternVLChatModel"), "0.32.0")


def test_one_thinning_is_enough() -> None:
    from holitom import UnsupportedUsageError

    with pytest.raises(UnsupportedUsageError, match="--video-pruning-rate"):
        check(served({"retain_ratio": 0.1}, prunes=True), "0.32.0")


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "1.0", "dev"])
def test_an_unread_vllm_is_named_with_what_would_work(version: str) -> None:
    from holitom import UnsupportedUsageError

    with pytest.raises(UnsupportedUsageError) as refused:
        check(served({"retain_ratio": 0.1}), version)
    said = str(refused.value)
    assert all(known in said for known in (version, *TESTED, *READ))
    assert "CONTRACT" in said


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32.1rc1", "0.33.0", "0.33.1"])
def test_tested_and_read_versions(version: str) -> None:
    assert known(version)
    assert check(served({"retain_ratio": 0.1}), version) is not None
