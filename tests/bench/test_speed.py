"""The speed bench: what it times is what a user runs, in rounds, and it says what did not run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import FAMILIES, small
from support.tiny import build_model, video
from transformers import AutoModelForImageTextToText

from holitom.bench.encoding import Encoding
from holitom.bench.loading import Load, Loading
from holitom.bench.machine import peak_memory
from holitom.bench.random_weights import (
    TEXT_TOKENS,
    FramesProcessor,
    TooLittleMemoryError,
    needed_bytes,
    random_model,
    random_prompt,
)
from holitom.bench.settings import FULL, Setting, budgets
from holitom.bench.speed import measure
from holitom.bench.timings import Ratio, Row, Speed, Timing
from holitom.bundled import DEMO_VIDEO
from holitom.cli import main
from holitom.costs import skeleton
from holitom.errors import SettingsError, VideoError
from holitom.methods import METHODS, Method, get_method
from holitom.methods.choose import read_methods
from holitom.video import Sampling, load_sampled
from holitom.video.fitting import fit_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny test model's shapes, with a vocabulary that holds the usual placeholder ids."""
    path = tmp_path_factory.mktemp("shapes") / "config.json"
    build_model().config.to_json_file(path)
    return path


@pytest.fixture(scope="module")
def prompts(tiny: Any) -> tuple[Any, Any]:
    """A prompt with six frames, and one with one."""
    return tuple(tiny.inputs("<video> w1 w2", videos=[video(6)[:frames]]) for frames in (6, 1))


def settings(names: str, ratio: float = 0.5) -> list[Setting]:
    """Full tokens, and the methods at one budget."""
    return budgets(read_methods(names), [ratio])


def timing(**seconds: float) -> Timing:
    zero = dict(vision=0.0, attention=0.0, outer=0.0, inner=0.0, prefill=0.0, decoding=0.0)
    return Timing(**{**zero, **seconds}, load=Load(0.0, 0.0), peak=None)


class Known:
    """Loads in times that are known."""

    file = DEMO_VIDEO

    def stock(self) -> Load:
        return Load(40, 2)

    def own(self) -> Load:
        return Load(4, 1)


# --- what is timed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["holitom", "visionzip", "pdrop", "random"])
def test_a_replayed_encoding_gives_what_encoding_again_gives(tiny: Any, prompts: Any, name: str) -> None:
    model, (inputs, _) = tiny.model, prompts
    method = get_method(name, retain_ratio=0.5)
    with torch.inference_mode():
        encoding = Encoding(model, inputs)
        with method(model) as live:
            said = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        for _ in range(2):  # as often as one likes
            with encoding.replayed(), method(model) as replayed:
                assert torch.equal(model.generate(**inputs, do_sample=False, max_new_tokens=6), said)
            (before,), (after,) = live.last.videos, replayed.last.videos
            assert torch.equal(before.position, after.position)
            assert before.stages == after.stages


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_replays_its_encoding(family: str) -> None:
    one = small(family, "sdpa")
    inputs = one.inputs("<video> w1 w2", videos=[one.video()])
    asked = dict(do_sample=False, max_new_tokens=3, suppress_tokens=one.unspoken)
    with torch.inference_mode():
        encoding = Encoding(one.model, inputs)
        for name in ("holitom", "visionzip"):
            method = get_method(name, retain_ratio=0.5)
            with method(one.model):
                said = one.model.generate(**inputs, **asked)
            with encoding.replayed(), method(one.model):
                assert torch.equal(one.model.generate(**inputs, **asked), said)


def test_a_method_that_fails_leaves_the_model_as_it_was(tiny: Any, prompts: Any) -> None:
    encoding = Encoding(tiny.model, prompts[0])
    with (
        pytest.raises(SettingsError),
        encoding.replayed(),
        get_method("uniform", retain_ratio=0.1)(tiny.model),
    ):
        tiny.model.generate(**prompts[0], max_new_tokens=2)
    trunk = tiny.model.model
    tower = getattr(trunk.vision_tower, "vision_model", trunk.vision_tower)
    assert "get_video_features" not in trunk.__dict__
    assert "forward" not in tower.encoder.layers[-1].self_attn.__dict__


class Watch:
    """Counts runs of the vision tower, and notes in which order settings run."""

    def __init__(self, model: Any) -> None:
        self.encoded = 0
        self.order: list[str] = []
        self.hook = model.model.vision_tower.register_forward_hook(self.see)

    def see(self, *_: Any) -> None:
        self.encoded += 1

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()


def test_rounds_alternate_and_the_first_does_not_count(tiny: Any, prompts: Any) -> None:
    wanted = settings("holitom-outer,holitom")
    with Watch(tiny.model) as watch:
        speed = measure(tiny.model, *prompts, wanted, Known(), 3, repeats=2, notify=watch.order.append)
    assert (speed.rounds, speed.warm_up_round, speed.encodings) == (2, True, 2)
    assert watch.encoded == 1 + 1 + 2  # on one frame, in the round that does not count, once a round
    told = [doing.partition(": ")[2] for doing in watch.order if doing.startswith("round")]
    ran = [doing for doing in told if doing != "loading demo.mp4"]
    assert len(told) == len(ran) + 3
    there = ["full tokens", "HoliTom w/o M 50%", "HoliTom 50%"]
    assert ran == [*there, *there, *reversed(there)]
    for row in speed.rows:
        assert len(row.timings) == 2
        for each in row.timings:
            assert min(each.vision, each.prefill, each.decoding) > 0
            parts = each.vision + each.attention + each.outer + each.inner + each.prefill
            assert each.ttft == pytest.approx(parts)
    full, outer, inner = speed.rows
    assert (full.visual_tokens, speed.video, speed.prompt_tokens) == (
        96,
        (6, 16),
        prompts[0].input_ids.shape[1],
    )
    assert outer.visual_tokens == inner.visual_tokens < 60
    assert full.kv_bytes > outer.kv_bytes > inner.kv_bytes
    assert all(each.inner == 0 for each in full.timings + outer.timings)
    assert all(each.inner > 0 for each in inner.timings)
    # All settings of a round share its vision tower's time.
    assert [each.vision for each in full.timings] == [each.vision for each in inner.timings]


def test_where_time_is_short_one_round_runs_and_counts(tiny: Any, prompts: Any) -> None:
    with Watch(tiny.model) as watch:
        speed = measure(tiny.model, *prompts, settings("holitom"), Known(), 2, deadline=time.monotonic())
    assert (speed.rounds, speed.warm_up_round, speed.encodings, watch.encoded) == (1, False, 1, 2)


def test_repeats_are_kept_where_time_is_short(tiny: Any, prompts: Any) -> None:
    speed = measure(
        tiny.model, *prompts, settings("holitom"), Known(), 2, repeats=3, deadline=time.monotonic()
    )
    assert (speed.rounds, speed.warm_up_round, speed.encodings) == (3, False, 1)


def test_as_many_tokens_are_generated_whatever_the_model_says(tiny: Any, prompts: Any) -> None:
    """Even where every token would end the answer."""
    ends = tiny.model.generation_config.eos_token_id
    tiny.model.generation_config.eos_token_id = list(range(32))
    try:
        speed = measure(tiny.model, *prompts, [FULL], Known(), 8, repeats=1)
    finally:
        tiny.model.generation_config.eos_token_id = ends
    cached = prompts[0].input_ids.shape[1] + 8 - 1  # the last token is not fed back
    per_token = 4 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, bytes
    assert speed.rows[0].kv_bytes == cached * per_token


def test_methods_that_cannot_run_are_told_with_their_reason(tiny: Any, prompts: Any) -> None:
    """Whether settings, the model or the video rule them out."""
    speed = measure(
        tiny.model, *prompts, settings("dycoke,pdrop,uniform,holitom", 0.1), Known(), 2, repeats=1
    )
    assert [row.setting.title for row in speed.rows] == ["full tokens", "HoliTom 10%"]
    assert list(speed.refused) == ["DyCoke 10%", "PyramidDrop 10%", "Uniform 10%"]
    assert "must be in [0.25, 1], got 0.1" in speed.refused["DyCoke 10%"]
    assert "first 1 of 4 layers" in speed.refused["PyramidDrop 10%"]
    assert "of 6 it can keep one" in speed.refused["Uniform 10%"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_timed(tiny: Any, prompts: Any, name: str) -> None:
    speed = measure(tiny.model, *prompts, settings(name), Known(), 2, repeats=1)
    assert not speed.refused
    assert len(speed.rows) == 2


def test_a_setting_with_reuse_runs_the_tower_itself(tiny: Any, prompts: Any) -> None:
    still = tiny.inputs("<video> w1 w2", videos=[video(1).repeat(6, 0)])
    wanted = settings("holitom,holitom[reuse=true]")
    with Watch(tiny.model) as watch:
        speed = measure(tiny.model, still, prompts[1], wanted, Known(), 2, repeats=1)
    assert watch.encoded == 2 + 2 * 2  # on one frame, then in two rounds: once for all, once under reuse
    full, stock, reused = speed.rows
    assert (full.computed, stock.computed) == (None, None)
    assert reused.computed < 0.5  # six equal frames
    assert stock.visual_tokens == reused.visual_tokens
    (shared,), (own,) = stock.timings, reused.timings
    assert shared.vision == full.timings[0].vision != own.vision
    assert shared.attention > own.attention == 0  # it is read while the tower runs
    assert own.peak is None


def test_a_tower_in_batches_is_run_and_not_replayed(tiny: Any, prompts: Any) -> None:
    wanted = settings("holitom,holitom[tower_batch=2]")
    speed = measure(tiny.model, *prompts, wanted, Known(), 2, repeats=1)
    _, whole, batches = speed.rows
    assert batches.visual_tokens == whole.visual_tokens
    assert batches.timings[0].attention == 0
    assert batches.timings[0].vision != whole.timings[0].vision


# --- from the file ----------------------------------------------------------------------------------


def test_both_ways_load_the_same_frames() -> None:
    clips: list[Any] = []
    wanted = load_sampled(DEMO_VIDEO, Sampling(5))
    loading = Loading(DEMO_VIDEO, Sampling(5), wanted.metadata.frames_indices, clips.append)
    for load in (loading.stock(), loading.own()):
        assert load.reading > 0
        assert load.preprocessing >= 0
    assert all(np.array_equal(clip.frames, wanted.frames) for clip in clips)


def test_a_round_loads_full_tokens_as_transformers_does(tiny: Any, prompts: Any) -> None:
    speed = measure(tiny.model, *prompts, settings("holitom"), Known(), 2, repeats=1)
    (full,), (merged,) = (row.timings for row in speed.rows)
    assert (full.load, merged.load) == ((40, 2), (4, 1))
    assert full.whole == 42 + full.ttft
    assert merged.whole == 5 + merged.ttft
    assert speed.speedups(speed.rows[1])["file_to_first_token"].median == full.whole / merged.whole


def test_a_file_that_transformers_cannot_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"clip.mp4: transformers' \w+ loader fails: "):
        Loading(tmp_path / "clip.mp4", Sampling(2), [0, 1], print).stock()


# --- figures by hand --------------------------------------------------------------------------------


def test_ratios_are_taken_within_rounds() -> None:
    def row(name: str, *timings: Timing) -> Row:
        return Row(Setting(name, name, 0.1, Method()), list(timings), visual_tokens=1, kv_bytes=1)

    slow = timing(vision=2, prefill=8, decoding=5)
    full = row("full", slow, timing(vision=2, prefill=10, decoding=7), slow)
    outer = row("holitom-outer", *3 * [timing(vision=2, attention=0.5, outer=0.5, prefill=2, decoding=4)])
    inside = [timing(vision=2, outer=1, inner=0.5, prefill=each, decoding=1) for each in (1, 1.3, 2)]
    speed = Speed({}, 5, [full, outer, row("holitom", *inside)], {}, "pyav")

    assert outer.timings[0].ttft == 5
    assert outer.share(lambda each: each.merging) == 0.1
    assert speed.speedups(outer)["ttft"] == Ratio(10 / 5, 10 / 5, 12 / 5)
    assert speed.speedups(outer)["prefill"] == Ratio(8 / 2, 8 / 2, 10 / 2)
    assert speed.speedups(outer)["decoding"] == Ratio(5 / 4, 5 / 4, 7 / 4)
    assert speed.decode_rate(full) == 4 / 5
    assert speed.inner_ratios() == {0.1: Ratio(1.8 / 2, 1.5 / 2, 2.5 / 2)}
    assert json.loads(json.dumps(speed.to_dict()))["settings"][1]["merging_share"] == 0.1


def test_peak_memory_is_what_a_call_takes_and_gives_back() -> None:
    with peak_memory(CPU) as nothing:
        pass
    if nothing.bytes is None:
        pytest.skip("resident memory is read from /proc")
    with peak_memory(CPU) as peak:
        torch.ones(50_000_000, dtype=torch.uint8).max()
    assert 45e6 < peak.bytes < 80e6
    assert nothing.bytes < 10e6


# --- random weights ---------------------------------------------------------------------------------


def test_frames_that_were_resized_as_they_were_read_give_the_same_pixels(config: Path) -> None:
    model = random_model(str(config), 6, torch.float32, CPU)
    resized = load_sampled(DEMO_VIDEO, Sampling(6), fit=fit_of(FramesProcessor(model)))
    assert resized.fitted
    whole = random_prompt(model, load_sampled(DEMO_VIDEO, Sampling(6)).frames)
    found = random_prompt(model, resized.frames, do_resize=False)
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_random_weights_compute_what_is_finite_and_differs(config: Path) -> None:
    model = random_model(str(config), 6, torch.bfloat16, CPU)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    inputs = random_prompt(model, video(6))
    assert inputs["input_ids"].shape[1] == 6 * 16 + 1 + TEXT_TOKENS
    with torch.inference_mode():
        logits = model(**inputs).logits[0].float()
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0.01  # the places of a prompt say different things
    layers = model.model.language_model.layers
    assert not torch.equal(layers[0].self_attn.q_proj.weight, layers[1].self_attn.q_proj.weight)
    # What is not a weight is what the class computes.
    usual = AutoModelForImageTextToText.from_config(model.config, dtype=torch.bfloat16)
    there = dict(model.named_buffers())
    assert there
    assert all(torch.equal(buffer, there[name]) for name, buffer in usual.named_buffers())


def test_activations_stay_finite_through_many_layers(config: Path, tmp_path: Path) -> None:
    deep = json.loads(config.read_text())
    deep["text_config"] |= {"num_hidden_layers": 80, "layer_types": ["full_attention"] * 80}
    deep["vision_config"]["num_hidden_layers"] = 26
    (tmp_path / "config.json").write_text(json.dumps(deep))
    model = random_model(str(tmp_path), 2, torch.bfloat16, CPU)
    with torch.inference_mode():
        output = model(**random_prompt(model, video(2)), output_hidden_states=True)
    sizes = [hidden.float().std().item() for hidden in output.hidden_states]
    assert 0.05 < min(sizes) <= max(sizes) < 20


def test_weights_are_never_there_twice(config: Path, tmp_path: Path) -> None:
    wide = json.loads(config.read_text())
    wide["text_config"] |= {"hidden_size": 1024, "intermediate_size": 8192, "vocab_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(wide))
    with peak_memory(CPU) as peak:
        model = random_model(str(tmp_path), 1, torch.bfloat16, CPU)
    if peak.bytes is None:
        pytest.skip("resident memory is read from /proc")
    weights = sum(weight.nbytes for weight in model.parameters())
    assert weights > 2e8
    assert weights < peak.bytes < 1.3 * weights


def test_layers_that_share_weights_take_the_memory_of_one_and_do_the_work_of_all(
    config: Path, tmp_path: Path
) -> None:
    deep = json.loads(config.read_text())
    deep["text_config"] |= {"num_hidden_layers": 12, "layer_types": ["full_attention"] * 12}
    deep["text_config"] |= {"hidden_size": 1024, "intermediate_size": 8192}
    (tmp_path / "config.json").write_text(json.dumps(deep))
    with peak_memory(CPU) as peak:
        model = random_model(str(tmp_path), 2, torch.float32, CPU, share_layers=True)
    layers = model.model.language_model.layers
    assert len(layers) == 12
    assert len({id(weight) for layer in layers for weight in layer.parameters()}) == len(
        list(layers[0].parameters())
    )
    weights = sum(weight.nbytes for weight in model.parameters())
    if peak.bytes is not None:
        assert peak.bytes < 1.5 * weights
    with torch.inference_mode():
        output = model(**random_prompt(model, video(2)), use_cache=True, output_hidden_states=True)
    assert output.logits.isfinite().all()
    assert len(output.past_key_values.layers) == 12
    assert not torch.equal(output.hidden_states[3], output.hidden_states[2])


def test_sharing_layers_is_for_random_weights(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speed", "--share-layers"]) != 0
    assert "--share-layers needs --random-weights" in capfd.readouterr().err


def test_a_model_that_does_not_fit_is_refused_before_it_is_made() -> None:
    begun = time.monotonic()
    with pytest.raises(
        TooLittleMemoryError, match=r"needs about [\d,]+\.\d GB \(292\.7 for weights"
    ) as refusal:
        random_model("llava-onevision-qwen2-72b", 8192, torch.float32, CPU)
    assert "GB are free on cpu" in str(refusal.value)
    assert time.monotonic() - begun < 60


def test_7b_fits_24_gigabytes() -> None:
    weights, besides = needed_bytes(skeleton("llava-onevision-qwen2-7b"), 32)
    assert weights == pytest.approx(16.06e9, rel=0.001)  # 8.03 billion of two bytes
    assert weights + besides < 20e9


# --- the command ------------------------------------------------------------------------------------


def test_table_of_the_bundled_model(capfd: pytest.CaptureFixture[str]) -> None:
    asked = "--repeats 2 --new-tokens 2 --frames 4 --retain 0.2 --methods holitom-outer,holitom,dycoke"
    assert main(["bench", "speed", *asked.split()]) == 0
    out = capfd.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "the bundled model; bfloat16, sdpa attention"
    assert lines[1].startswith("demo.mp4: 4 frames x 49 visual tokens; prompt of ")
    assert f"{torch.get_num_threads()} threads; torch {torch.__version__}" in " ".join(lines)
    assert max(map(len, out.splitlines())) <= 80
    assert "medians of 2 rounds (least..most), after an untimed round" in out
    # Times and gains, each in two tables.
    assert sum(line.startswith("HoliTom w/o M 20% ") for line in lines) == 4
    assert sum(line.startswith("HoliTom 20% ") for line in lines) == 4
    assert "Full tokens: the file read by transformers' loader (" in out
    heads = " ".join(line for line in lines if not line.startswith(("full tokens", "HoliTom")))
    assert all(word in heads for word in ("reading", "tower", "attention", "file to", "first", "prefill"))
    assert "Inner merging at 20%: prefill and inner merging take " in out
    assert "Refused: DyCoke 20%: DyCoke keeps the first of every 4 frames whole" in out


def test_json_of_random_weights(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = "--repeats 1 --new-tokens 3 --frames 4 --dtype float32 --retain 0.3 --methods all --json"
    assert main(["bench", "speed", "--random-weights", str(config), *asked.split()]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["weights"], record["video"], record["frames"]) == ("random", "demo.mp4", 4)
    assert (record["machine"]["dtype"], record["rounds"], record["new_tokens"]) == ("float32", 1, 3)
    rows = {row["method"]: row for row in record["settings"]}
    assert set(rows) == {"full", "holitom-outer", *METHODS}
    assert rows["full"]["visual_tokens"] == 4 * 16
    for row in rows.values():
        (only,) = row["rounds"]
        assert only["ttft"] > only["prefill"] > 0
        assert row["speedup"]["ttft"]["median"] == row["speedup"]["ttft"]["least"] > 0
    assert set(record["inner_prefill_ratio"]) == {"0.3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--methods magic", "unknown method 'magic'; known: holitom, holitom-outer, "),
        ("--retain 0.1,some", "retain must be numbers"),
        ("--retain 0.1,2", "retain must be numbers in (0, 1], got 2.0"),
        ("--frames 0", "frames must be at least 1, not 0"),
        ("--new-tokens 1", "new-tokens must be at least 2, not 1"),
        ("--repeats 0", "repeats must be at least 1, not 0"),
        ("--threads 0", "threads must be at least 1, not 0"),
        ("--minutes 0", "minutes must be more than 0, not 0"),
        ("--device warp", "device 'warp' is not to be had here"),
        ("--video no-such.mp4", "no-such.mp4: no such file"),
        ("--model a --random-weights llava-onevision-qwen2-7b", "exclude each other"),
        (
            "--random-weights 7b",
            "model 7b: no such folder or config; published shapes: llava-onevision-qwen2-0.5b",
        ),
        ("--random-weights llava-onevision-qwen2-0.5b --dtype int8", "dtype must be auto, float32"),
    ],
)
def test_bad_input(
    arguments: str, message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "speed", *arguments.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
