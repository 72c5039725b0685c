"""What `holitom flops` counts: the paper's printed figures, and shapes worked by hand."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from holitom import HoliTom, SettingsError
from holitom.costs import Costs, Decoder, Layer, Plan, costs, layer_operations, plans, skeleton
from holitom.costs.probe import probe_of
from holitom.costs.published import PUBLISHED
from holitom.errors import HolitomError, ModelError
from holitom.methods import DyCoke, FastV, PyramidDrop, VisionZip
from holitom.methods.choose import read_methods
from holitom.models import adapter_for

QWEN2_7B = Decoder(3584, (Layer(18944),) * 28)
RATIOS = (0.25, 0.2, 0.15, 0.1)


@pytest.fixture(scope="module")
def table() -> dict[str, Plan]:
    methods = read_methods("all,pdrop[retain_ratio=0.46875]")
    return {plan.label: plan for plan in plans(methods, RATIOS, frames=32, tokens=196, layers=28)[0]}


@pytest.fixture(scope="module")
def seven() -> Costs:
    """The README's table."""
    return costs("llava-onevision-qwen2-7b")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny test model's config, as a file."""
    from support.tiny import build_model

    path = tmp_path_factory.mktemp("small") / "config.json"
    build_model().config.to_json_file(path)
    return path


def rows(counted: Costs) -> dict[str, Any]:
    return {row.plan.label: row for row in counted.rows}


# --- the paper's formula ----------------------------------------------------------------------------

PRINTED = [  # TFLOPs and percent of the paper's main table, 32 frames x 196 tokens
    ("full tokens", "40.8", "100.0"),
    ("FastV 20%", "9.3", "22.8"),
    ("HoliTom w/o M 25%", "8.7", "21.3"),  # also PruneVid, whose count depends on the video
    ("DyCoke 25%", "8.7", "21.3"),
    ("VisionZip 25%", "8.7", "21.3"),
    ("FastVID 25%", "8.7", "21.3"),
    ("HoliTom 25%", "7.1", "17.4"),
    ("HoliTom w/o M 20%", "7.0", "17.2"),
    ("HoliTom 20%", "5.8", "14.2"),
    ("HoliTom w/o M 15%", "5.2", "12.7"),
    ("HoliTom 15%", "4.3", "10.5"),
    ("HoliTom w/o M 10%", "3.4", "8.3"),  # also VisionZip, PruneVid, FastVID
    ("HoliTom 10%", "2.8", "6.9"),
]


@pytest.mark.parametrize(("label", "tera", "percent"), PRINTED)
def test_formula_prints_the_papers_figure(
    table: dict[str, Plan], label: str, tera: str, percent: str
) -> None:
    assert f"{QWEN2_7B.prefill(table[label].levels()) / 1e12:.1f}" == tera
    # The paper's percentages are quotients of its printed figures, not of the figures themselves.
    assert f"{100 * float(tera) / 40.8:.1f}" == percent


def test_papers_budget_rounds_up_in_each_frame(table: dict[str, Plan]) -> None:
    # 196 x 0.15 = 29.4, so 30 a frame; 15% of all tokens at once, 941, would print 5.1 and not 5.2.
    assert table["HoliTom w/o M 15%"].sent == 32 * 30
    assert f"{28 * layer_operations(941, 3584, 18944) / 1e12:.1f}" == "5.1"


def test_newline_does_not_change_printed_figures(table: dict[str, Plan]) -> None:
    for label, tera, _ in PRINTED:
        assert f"{QWEN2_7B.prefill(table[label].levels(separators=1)) / 1e12:.1f}" == tera


def test_pdrop_with_its_own_papers_schedule_is_not_what_the_table_prints(table: dict[str, Plan]) -> None:
    # Half at each quarter of the layers costs 18.0; the table's 10.5 must be of an earlier schedule, which
    # it does not state. Halving before layers 2, 7 and 14 is one of several that print 10.5.
    pdrop = table["PyramidDrop [retain_ratio=0.46875]"]
    assert [level.tokens for level in pdrop.levels()] == [6272, 3136, 1568, 784]
    assert f"{QWEN2_7B.prefill(pdrop.levels()) / 1e12:.1f}" == "18.0"
    halving = PyramidDrop(borders=(2 / 28, 7 / 28, 14 / 28), stage_keep=0.5).inner(28)
    assert [stage.layer for stage in halving] == [2, 7, 14]
    early = Plan("PDrop", 6272, halving)
    assert f"{QWEN2_7B.prefill(early.levels()) / 1e12:.1f}" == "10.5"


def test_formula_by_hand() -> None:
    assert layer_operations(tokens=3, width=2, ffn=5) == 4 * 3 * 4 + 2 * 9 * 2 + 2 * 3 * 2 * 5
    halved = Plan("", 4, FastV(retain_ratio=0.5, inner_layer=1).inner(3)).levels()
    assert Decoder(2, (Layer(5),) * 3).prefill(halved) == layer_operations(4, 2, 5) + 2 * layer_operations(
        2, 2, 5
    )


def test_plans_stop_where_the_methods_do() -> None:
    """The rows' counts and inner stages are those that the methods run."""
    (_, *found), refused = plans(read_methods("holitom,fastv,visionzip,dycoke"), [0.3], 5, 7, 80)
    holitom, fastv, visionzip, dycoke = found
    assert not refused
    assert holitom.inner == HoliTom(retain_ratio=0.3).inner(80)
    assert [level.start for level in holitom.levels()] == [0, 60]
    assert fastv.inner == FastV(retain_ratio=0.3).inner(80)
    assert visionzip.sent == VisionZip(retain_ratio=0.3).merged_count(5, 7) == 10  # of 35
    assert dycoke.sent == DyCoke(retain_ratio=0.3).merged_count(5, 7) == 14  # two whole frames of 7


def test_a_setting_that_cannot_be_planned_is_shown_with_its_reason() -> None:
    found, refused = plans(read_methods("all"), [0.01, 0.1], 32, 196, layers=28)
    assert "PruneVid 10%" not in {plan.label for plan in found}
    assert refused["PruneVid 10%"] == "how many tokens PruneVid keeps depends on what the video shows"
    assert "must be in [0.25, 1], got 0.1" in refused["DyCoke 10%"]
    assert "of 32 it can keep one, retain_ratio 0.03125 at the least, got 0.01" in refused["Uniform 1%"]
    assert "Uniform 10%" in {plan.label for plan in found}
    assert "the first 7 of 28 layers" in refused["PyramidDrop 10%"]
    assert not [label for label in refused if label.startswith(("HoliTom", "FastV "))]


def test_reading_keys_is_counted_for_the_method_that_does(small: Path) -> None:
    counted = costs(str(small), 4, [0.5], "visionzip,fastvid,evs")
    keys, importance, neither = (counted.vision_operations(row) for row in counted.rows[1:])
    # One projection of the last layer: two operations for each of 4 x 49 patches and 32 x 32 weights.
    assert keys - importance == 2 * 4 * 49 * 32 * 32
    assert importance - neither == counted.vision.importance


# --- true counts ------------------------------------------------------------------------------------


def test_true_prefill_of_the_7b_model_by_hand(seven: Costs) -> None:
    n, d, m, kv = 32 * 196 + 1 + 32, 3584, 18944, 4 * 128
    layer = 2 * n * d * (2 * d + 2 * kv) + 2 * 2 * n * n * d + 3 * 2 * n * d * m
    assert seven.rows[0].prefill.operations == 28 * layer + 2 * d * 152064
    assert seven.rows[0].prefill.cache_bytes == 28 * n * 2 * kv * 2  # bfloat16


def test_inner_merging_shortens_layers_from_its_own_on(seven: Costs) -> None:
    before, after = rows(seven)["HoliTom 10%"].prefill.cache
    assert (before.first, before.last, before.tokens) == (0, 17, 640 + 1 + 32)
    assert (after.first, after.last, after.tokens) == (18, 27, round(641 / 2) + 32)
    assert before.bytes == 18 * before.tokens * 2 * 512 * 2
    assert after.bytes == 10 * after.tokens * 2 * 512 * 2


def test_outer_merging_that_keeps_all_costs_what_full_tokens_do(small: Path) -> None:
    full, outer = costs(str(small), frames=4, ratios=[1], methods="holitom-outer").rows
    assert (outer.prefill, outer.paper) == (full.prefill, full.paper)


def test_cache_bytes_follow_its_dtype(small: Path) -> None:
    half, single = (costs(str(small), 4, [0.5], dtype=dtype).rows for dtype in ("float16", "float32"))
    for narrow, wide in zip(half, single, strict=True):
        assert 2 * narrow.prefill.cache_bytes == wide.prefill.cache_bytes
        assert narrow.prefill.operations == wide.prefill.operations


def test_one_frame_and_one_word(small: Path) -> None:
    counted = costs(str(small), frames=1, ratios=[0.01], text_tokens=1)
    assert rows(counted)["HoliTom w/o M 1%"].plan.sent == 1
    assert rows(counted)["FastV 1%"].prefill.cache[1].tokens == 2  # one of each, though 1% rounds to none


def test_a_folder_and_a_file_are_the_same_model(small: Path) -> None:
    assert skeleton(str(small)).config.to_diff_dict() == skeleton(str(small.parent)).config.to_diff_dict()


# as the hub shows them for the checkpoints; Qwen3.5 without the layer that predicts several tokens
SIZES = (0.894, 8.03, 73.2, 8.29, 8.29, 8.77, 10.29, 8.03, 7.06, 7.94, 2.25, 8.04, 9.41, 1.30)
SIZES += (8.29 + 0.64, 31.7)  # of Qwen-Omni's thinkers, what their parts come to


@pytest.mark.parametrize(("name", "billions"), list(zip(PUBLISHED, SIZES, strict=True)))
def test_published_shapes_have_the_published_sizes(name: str, billions: float) -> None:
    size = sum(weight.numel() for weight in skeleton(name).parameters())
    assert size / 1e9 == pytest.approx(billions, rel=0.005)


# 32 frames of 640 x 360: temporal patch rows, and tokens in each.
COUNTS = {
    "qwen2-vl-7b": (16, 13 * 23),
    "qwen2.5-vl-7b": (16, 13 * 23),
    "qwen3-vl-8b": (16, 11 * 20),
    "qwen3.5-9b": (16, 11 * 20),
    "glm-4.1v-9b": (16, 13 * 23),
}


def recurrent_bytes(name: str) -> int:
    """Of the states that take the place of keys and values in some layers, whatever the prompt's length."""
    text = skeleton(name).config.text_config
    layers = list(getattr(text, "layer_types", None) or []).count("linear_attention")
    if not layers:
        return 0
    keys, values = text.linear_num_key_heads, text.linear_num_value_heads
    width = 2 * keys * text.linear_key_head_dim + values * text.linear_value_head_dim
    convolved = text.linear_conv_kernel_dim * width * 2  # bfloat16
    state = values * text.linear_key_head_dim * text.linear_value_head_dim * 4  # float32
    return layers * (convolved + state)


@pytest.mark.parametrize("name", COUNTS)
def test_dynamic_resolution_is_counted_as_the_familys_processor_does(name: str) -> None:
    """And what is merged of it, prefilled and cached."""
    counted = costs(name, frames=32, ratios=[0.1], methods="holitom-outer,holitom", text_tokens=100)
    shape = (counted.vision.frames, counted.vision.tokens)
    assert (*shape, counted.vision.separators) == (*COUNTS[name], 0)
    processor = probe_of(adapter_for(skeleton(name))).processor()  # type: ignore[attr-defined]
    patches = processor.get_num_of_video_patches(32, 360, 640, {})
    assert shape[0] * shape[1] == patches // 4
    full, outer, inner = counted.rows
    assert (full.plan.sent, outer.plan.sent) == (shape[0] * shape[1], shape[0] * ceil(shape[1] / 10))
    assert inner.prefill.cache[0].tokens == outer.plan.sent + 100
    assert inner.prefill.cache[1].tokens == round(outer.plan.sent / 2) + 100
    states = recurrent_bytes(name)
    full_bytes, outer_bytes, inner_bytes = (row.prefill.cache_bytes - states for row in counted.rows)
    assert full_bytes > 5 * outer_bytes > 5 * inner_bytes


@pytest.mark.slow
def test_slices_of_the_whole_pictures_size_are_still_one_frames() -> None:
    """MiniCPM-V cuts 896 x 896 into four slices of 448 x 448, as large as the picture is when it is whole."""
    counted = costs("minicpm-v-4.6", frames=4, ratios=[0.5], methods="holitom-outer", size=(896, 896)).vision
    assert (counted.frames, counted.tokens) == (4, 5 * 64)


def test_importance_of_a_tower_with_windows_by_hand() -> None:
    """Qwen2.5-VL's last layer attends within a temporal patch row: projections and one product of squares."""
    counted = costs("qwen2.5-vl-7b", frames=4, ratios=[0.5], methods="holitom").vision
    patches, width = 26 * 46, 1280
    assert counted.importance == 2 * (2 * patches * width * 3 * width + 2 * patches * patches * width)


def test_experts_are_counted(tmp_path: Path) -> None:
    """Two of four experts a token, by hand."""
    from support.families import small as family

    family("qwen3-vl-moe").model.config.to_json_file(tmp_path / "config.json")
    counted = costs(str(tmp_path), 8, [0.5], "fastv", text_tokens=32, size=(64, 48))
    n, d, kv, ffn, experts = 4 * 12 + 32, 64, 2 * 16, 32, 4
    attention = 2 * n * d * (2 * d + 2 * kv) + 2 * 2 * n * n * d
    layer = attention + 2 * n * d * experts + 2 * 3 * 2 * n * d * ffn
    assert counted.rows[0].prefill.operations == 5 * layer + 2 * d * 55
    with pytest.raises(SettingsError, match="counted in bfloat16 or float16"):
        costs(str(tmp_path), 8, dtype="float32")


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "frames must be in 1..8192, got 0"),
        ({"frames": -3}, "frames must be"),
        ({"frames": 10**9}, "frames must be"),
        ({"text_tokens": 0}, "text_tokens must be"),
        ({"ratios": [0.0]}, r"retain_ratio must be a number in \(0, 1\], got 0.0"),
        ({"ratios": [0.1, 1.5]}, "retain_ratio must be"),
        ({"ratios": [float("nan")]}, "retain_ratio must be"),
        ({"methods": "magic"}, "unknown method 'magic'; known: .*holitom-outer"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"size": (0, 360)}, "size must be two of 1..8192, got 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        costs("no-such-model", **settings)  # settings are checked first


def test_unknown_model() -> None:
    with pytest.raises(ModelError, match=r"no-such-model: no such .*llava-onevision-qwen2-7b"):
        costs("no-such-model")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("{ not json", {}),
        (None, {"model_type": "no-such-type"}),
        (None, {"model_type": "qwen2"}),
        (None, {"text_config": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 3}}),
        (None, {"text_config": {"model_type": "qwen2", "num_attention_heads": 0}}),
        (None, {"text_config": {"model_type": "qwen2", "hidden_size": "wide"}}),
    ],
)
def test_configs_that_make_no_video_model(small: Path, tmp_path: Path, text: Any, changes: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(text or json.dumps(json.loads(small.read_text()) | changes))
    with pytest.raises(HolitomError, match=r"^(model|no adapter)"):
        costs(str(path), frames=1)
