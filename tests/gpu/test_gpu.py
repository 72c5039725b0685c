"""What exists on a GPU alone: its own waits, flash attention, compiled decoding, its clock and its memory."""

from __future__ import annotations

import json
import re
import traceback
import warnings
from collections import Counter
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
from support.families import FAMILIES, Small, small
from support.families.uses import generated
from support.methods import EveryOther
from torch.testing import assert_close
from typer.testing import CliRunner

from holitom import HoliTom, Method
from holitom.ask import load_model
from holitom.bundled import BUNDLED_FRAMES, BUNDLED_MODELS, DEMO_VIDEO
from holitom.cli.app import app
from holitom.methods import METHODS, get_method
from holitom.ops.host import HOST
from holitom.ops.pooling import pool
from holitom.prompts import prompt
from holitom.tower import Reuse
from holitom.video import load_video

pytestmark = pytest.mark.gpu

HOLITOM = HoliTom(retain_ratio=0.4, similarity_threshold=0.8)
ASKED = ("Which shape flashes?", "How many digits are there?")
BUNDLED: dict[str, Method] = {
    "holitom": HoliTom(0.1),
    "reuse": HoliTom(0.1, reuse=Reuse()),
    "holitom-plus": get_method("holitom-plus", retain_ratio=0.1),
    "fastv": get_method("fastv", retain_ratio=0.25),
}
each_family = pytest.mark.parametrize("name", FAMILIES)
each_bundled = pytest.mark.parametrize("name", BUNDLED_MODELS)


@cache
def bundled(name: str, dtype: str, device: str) -> Any:
    with HOST:
        return load_model(str(BUNDLED_MODELS[name]), dtype, device)


def answers(name: str, method: Method, dtype: str, device: str, attention: str = "sdpa") -> list[str]:
    """What a bundled model answers to two questions about the demo."""
    model, processor = bundled(name, dtype, device)
    model.set_attn_implementation(attention)
    video = load_video(DEMO_VIDEO, BUNDLED_FRAMES)
    said = []
    with method(model):
        for question in ASKED:
            with HOST:
                inputs = prompt(processor, video, question)
            inputs = inputs.to(model.device, model.dtype)
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=8)
            said.append(processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :])[0])
    return said


@each_bundled
@pytest.mark.parametrize("kind", BUNDLED)
def test_the_bundled_models_answer_as_on_the_cpu(name: str, kind: str) -> None:
    with HOST:
        wanted = answers(name, BUNDLED[kind], "float32", "cpu")
    assert answers(name, BUNDLED[kind], "float32", "cuda") == wanted


def waits(one: Small, inputs: Any, tokens: int) -> Counter[str]:
    """The lines at which CUDA says that the host waits while `tokens` are generated, counted."""
    found: Counter[str] = Counter()

    def told(message: Any, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            stack = traceback.extract_stack()[:-1]
            own = [line for line in stack if not re.search(r"/torch/|/warnings\.py$", line.filename)]
            found[f"{own[-1].filename}:{own[-1].lineno} {own[-1].line}"] += 1

    settings = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with HOST, warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = told
            one.model.generate(**inputs, **settings, suppress_tokens=one.unspoken)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found


@each_family
def test_cuda_itself_counts_no_more_waits_than_the_pretended_device(name: str) -> None:
    """At most four more for a prefill, none for a step (tests/device/test_synchronisations.py)."""
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    waits(one, inputs, 1)  # what is made once
    stock = waits(one, inputs, 1), waits(one, inputs, 5)
    with HOLITOM(one.model):
        attached = waits(one, inputs, 1), waits(one, inputs, 5)
    prefill, whole = (own.total() - other.total() for own, other in zip(attached, stock, strict=True))
    assert prefill <= 4, attached[0] - stock[0]
    assert whole <= prefill, attached[1] - stock[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [7, 16, 27])
def test_pooling_with_channels_last_is_the_stock_models_to_the_bit(dtype: torch.dtype, side: int) -> None:
    trunk = small("llava-onevision").model.model
    vision = trunk.config.vision_config
    patches = torch.randn(5, side * side, 896, dtype=dtype)
    with mock.patch.multiple(vision, image_size=side * vision.patch_size):
        stock = trunk.apply_pooling(patches)
    assert torch.equal(pool(patches, side, "bilinear", 2), stock)


@each_family
@pytest.mark.parametrize("layers", [(), (2, 3)], ids=["outer", "inner"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_flash_attention_2(name: str, layers: tuple[int, ...], side: str) -> None:
    """A merged batch is as near to SDPA's as the stock model's own answers are, in bfloat16."""
    pytest.importorskip("flash_attn")
    logits: dict[tuple[str, bool], torch.Tensor] = {}
    for attention in ("sdpa", "flash_attention_2"):
        try:
            one = small(name, attention, torch.bfloat16)
        except ValueError as error:  # transformers' own words
            pytest.skip(str(error))
        prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6 w5"]
        inputs = one.inputs(*prompts, videos=[one.video(), one.video(1, kind=1)], side=side)
        last = inputs["attention_mask"].cumsum(1).argmax(1)
        for merged in (False, True):
            method = EveryOther(layers=layers) if merged else Method(1.0)
            with method(one.model), torch.no_grad():
                out = one.model(**inputs).logits
            logits[attention, merged] = out[torch.arange(2, device=out.device), last].float()
    stock, merged = (
        (logits["flash_attention_2", kind] - logits["sdpa", kind]).abs().mean() for kind in (False, True)
    )
    moved = (logits["sdpa", True] - logits["sdpa", False]).abs().mean()
    # Inside, where attention is nearly equal, rounding decides which token stays.
    assert merged <= (6 if layers else 3) * stock + 0.02
    assert layers or merged < moved / 2, "or a full answer would pass"


@each_bundled
@pytest.mark.parametrize("kind", BUNDLED)
def test_flash_attention_2_answers(name: str, kind: str) -> None:
    pytest.importorskip("flash_attn")
    wanted = answers(name, BUNDLED[kind], "bfloat16", "cuda")
    try:
        assert answers(name, BUNDLED[kind], "bfloat16", "cuda", "flash_attention_2") == wanted
    finally:
        bundled(name, "bfloat16", "cuda")[0].set_attn_implementation("sdpa")


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl", "qwen3-vl", "internvl"])
@pytest.mark.parametrize("layers", [(), (2, 3)], ids=["outer", "inner"])
def test_compiled_decoding_over_a_static_cache(name: str, layers: tuple[int, ...]) -> None:
    """On a GPU transformers compiles the steps of a static cache by itself, as CUDA graphs."""
    one, method = small(name), EveryOther(layers=layers)
    for seed, words in ((0, "w2 w3"), (1, "w5 w6 w7 w8")):
        inputs = one.inputs(f"w1 <video> {words}", videos=[one.video(seed)])
        wanted = generated(one.model, inputs, method, suppress_tokens=one.unspoken, max_new_tokens=8)
        got = generated(
            one.model,
            inputs,
            method,
            suppress_tokens=one.unspoken,
            max_new_tokens=8,
            cache_implementation="static",
        )
        assert torch.equal(got.sequences, wanted.sequences)
        assert_close(torch.stack(got.logits), torch.stack(wanted.logits), **one.family.close)


def test_report_and_memory_are_the_gpus() -> None:
    model, processor = bundled(next(iter(BUNDLED_MODELS)), "bfloat16", "cuda")
    with HOST:
        inputs = prompt(processor, load_video(DEMO_VIDEO, BUNDLED_FRAMES), ASKED[0])
    inputs = inputs.to("cuda", model.dtype)
    with HoliTom(0.1)(model) as run:
        model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert run.last is not None
    seconds = run.last.seconds
    assert {"vision", "merging", "prefill", "decoding"} <= seconds.keys()
    assert all(0 < part < 60 for part in seconds.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_cost_of_every_outer_stage_is_measured_on_it(method: str) -> None:
    command = ["bench", "overhead", "--methods", method, "--retain", "0.25", "--device", "cuda"]
    with HOST:
        run = CliRunner().invoke(app, [*command, "--dtype", "bfloat16", "--no-long", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert "NVIDIA" in found["machine"]["device"]
    assert all(stage["short"]["seconds"] > 0 for stage in found["methods"] if stage["refused"] is None)


def test_speed_is_measured_on_it() -> None:
    with HOST:
        run = CliRunner().invoke(app, ["bench", "speed", "--device", "cuda", "--repeats", "1", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert "NVIDIA" in found["machine"]["device"]
    assert found["vision_peak_bytes"] > 0
