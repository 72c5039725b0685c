"""Every family on the same matrix of uses (`support.families.uses`), methods and attention implementations.

`make test` runs a covering sample: one method for each kind of stage in every use, and every method in one.
What is only more of the same is marked slow, every cell of the matrix among it.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.families import FAMILIES, small
from support.families.uses import USES, asked_twice, batch, generated, run, second_question
from support.methods import EveryOther
from support.reference import language_arguments, packed, positions_of, reference_logits
from torch.testing import assert_close
from transformers.cache_utils import DynamicLayer

from holitom import HoliTom, Method
from holitom.methods import METHODS, get_method
from holitom.models import adapter_for

OUTER = EveryOther()
EARLY = EveryOther(layers=(1,))  # before the last of DeepStack's layers
STAGED = EveryOther(layers=(2, 3))
OWN = EveryOther(layers=(2,), own_attention=True)
READS_TEXT = EveryOther(layers=(2, 3), text=True)
HOLITOM = HoliTom(retain_ratio=0.4, similarity_threshold=0.8)
# Columns of the support table (tools/support_table.py) that a test fills.
OUTER_STAGE, INNER_STAGE, BATCHES, IMAGES = map(pytest.mark.shows, ("outer", "inner", "batches", "images"))
CHOSEN = {"outer": OUTER, "early": EARLY, "staged": STAGED, "own": OWN, "holitom": HOLITOM}

# These differ from one above them in a class or a feed-forward alone.
KIN = (
    "internvl-moe",
    "qwen2-vl",
    "qwen3-vl-moe",
    "qwen3.5-moe",
    "cosmos3",
    "glm-4.5v",
    "glm-4.6v",
    "glm-ocr",
)
each_family = pytest.mark.parametrize("name", FAMILIES)
most_families = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in KIN)) for name in FAMILIES]
)
each_method = pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, id=name, marks=OUTER_STAGE if name == "outer" else INNER_STAGE)
        for name, method in CHOSEN.items()
    ],
)


@OUTER_STAGE
@each_family
def test_off_means_off(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2", "<video> w3 w4 w5", videos=[one.video(), one.video(1, kind=1)])
    with torch.no_grad():
        full = one.model(**inputs).logits
        with Method(1.0)(one.model):
            assert torch.equal(one.model(**inputs).logits, full)
        assert torch.equal(one.model(**inputs).logits, full)
    off, on = (generated(one.model, inputs, method) for method in (None, Method(1.0)))
    assert torch.equal(torch.stack(off.logits), torch.stack(on.logits))


@each_family
@pytest.mark.parametrize(
    ("attention", "dtype"),
    [
        ("sdpa", torch.float32),
        pytest.param("eager", torch.float32, marks=pytest.mark.slow),
        pytest.param("sdpa", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("eager", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("use", ["left", "right", "no cache", "beams", "images", "second question"])
def test_off_means_off_in_every_use(name: str, use: str, attention: str, dtype: torch.dtype) -> None:
    """Bit for bit: what a method that keeps every token gives is what the stock model does."""
    one = small(name, attention, dtype)
    if (use == "beams" and not one.family.beams) or (use == "images" and not one.family.images):
        pytest.skip("the stock model cannot")
    if use == "images":
        inputs = one.inputs("w1 <image> w2 <video> w3", videos=[one.video()], images=[one.image()])
    else:
        prompts = ["w1 <video> w2", "<video> w9 <video> w8 w7"]
        videos = [one.video(), one.video(1, kind=1), one.video(2)]
        inputs = one.inputs(*prompts, videos=videos, side="right" if use == "right" else "left")
    settings: dict[str, Any] = {"beams": {"num_beams": 3}, "no cache": {"use_cache": False}}.get(use, {})
    outs = []
    for method in (None, Method(1.0)):
        if use == "second question":
            outs.append(asked_twice(one, inputs, method))
        else:
            outs.append(generated(one.model, inputs, method, suppress_tokens=one.unspoken, **settings))
    off, on = outs
    assert torch.equal(off.sequences, on.sequences)
    assert torch.equal(torch.stack(off.logits), torch.stack(on.logits))


# Three position axes and streams; frames as images; a class token; layers that carry a state.
@pytest.mark.parametrize("name", ["qwen3-vl", "internvl", "llava-next-video", "qwen3.5"])
@pytest.mark.parametrize("use", USES)
def test_a_stage_that_reads_the_text(name: str, use: str) -> None:
    USES[use](name, READS_TEXT, "sdpa")


@each_family
@each_method
def test_one_row(name: str, method: Method) -> None:
    USES["one row"](name, method, "sdpa")


@most_families
def test_the_merged_answer_is_not_the_full_one(name: str) -> None:
    """The other tests would pass with nothing attached if it were."""
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    full = generated(one.model, inputs, None)
    for method in CHOSEN.values():
        merged = generated(one.model, inputs, method)
        assert not torch.allclose(full.logits[0], merged.logits[0], atol=1e-2)


@BATCHES
@each_family
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", [HOLITOM, EARLY], ids=["holitom", "early"])
def test_a_row_of_a_batch_is_the_row_alone(name: str, side: str, method: Method) -> None:
    batch(name, method, "sdpa", side)


@BATCHES
@most_families
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_a_cache(name: str, attention: str) -> None:
    USES["no cache"](name, STAGED, attention)


@IMAGES
@most_families
@pytest.mark.parametrize("method", [HOLITOM, EARLY], ids=["holitom", "early"])
def test_images_stay_whole(name: str, method: Method) -> None:
    USES["images"](name, method, "sdpa")


@BATCHES
@most_families
@pytest.mark.parametrize("method", [HOLITOM, EARLY], ids=["holitom", "early"])
def test_beams(name: str, method: Method) -> None:
    USES["beams"](name, method, "sdpa")


@BATCHES
@most_families
@pytest.mark.parametrize("method", [HOLITOM, OWN], ids=["holitom", "own"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_second_question_over_the_cache(name: str, method: Method, side: str) -> None:
    second_question(name, method, "sdpa", side)


@BATCHES
@most_families
@pytest.mark.parametrize("method", [OUTER, EARLY, OWN], ids=["outer", "early", "own"])
def test_a_second_video_over_the_cache(name: str, method: Method) -> None:
    USES["second video"](name, method, "sdpa")


@most_families
@pytest.mark.parametrize("method", [HOLITOM, STAGED], ids=["holitom", "staged"])
def test_bfloat16(name: str, method: Method) -> None:
    USES["bfloat16"](name, method, "sdpa")


@each_family
def test_what_is_left_keeps_the_positions_of_the_unmerged_model(name: str) -> None:
    """And later layers hold fewer keys."""
    one = small(name)
    adapter: Any = adapter_for(one.model)
    if not adapter.keeps_positions:
        pytest.skip("one position axis: what is left is numbered anew")
    inputs = one.inputs("w1 <video> w2 w3 w4", videos=[one.video()])
    full = language_arguments(one.model, inputs)
    seen: list[Any] = []
    hook = adapter.language_model.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids", args[-1])), with_kwargs=True
    )
    with STAGED(one.model), torch.no_grad():
        cache = one.model(**inputs, use_cache=True).past_key_values
        one.model(input_ids=torch.tensor([[12]]), past_key_values=cache)
    hook.remove()
    left = packed(one.model, inputs, STAGED)
    assert torch.equal(seen[0][:, 0].expand(3, -1), positions_of(full)[:, left.column])
    assert seen[1].flatten().unique().tolist() == [int(positions_of(full).max()) + 1]
    visual = int(left.visual.sum())
    half = visual - visual // 2
    lengths = [len(left.column), len(left.column) - visual // 2]
    lengths.append(lengths[1] - half // 2)
    expected = [*lengths[:1] * 2, lengths[1], *lengths[2:] * (len(cache.layers) - 3)]
    for layer, length in zip(cache.layers, expected, strict=True):
        if isinstance(layer, DynamicLayer):  # the others hold a state
            assert layer.keys.shape[-2] - 1 == length


@BATCHES
@most_families
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_stand_in_the_callers_columns(name: str, side: str) -> None:
    one = small(name)
    prompts = ["w1 <video> w2 w3 w4", "<video> w9 w8 w7"]
    videos = [one.video(), one.video(1, kind=1)]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    with HOLITOM(one.model), torch.no_grad():
        out = one.model(**inputs).logits
    assert out.shape[:2] == inputs["input_ids"].shape
    for row in range(2):
        alone = one.inputs(prompts[row], videos=videos[row : row + 1])
        wanted = reference_logits(one.model, alone, HOLITOM, [])
        assert_close(
            out[row, int(inputs["attention_mask"][row].nonzero()[-1])][None], wanted, **one.family.close
        )


@most_families
@pytest.mark.parametrize(
    "label",
    [
        pytest.param(
            name, marks=[OUTER_STAGE, *[INNER_STAGE] * get_method(name, retain_ratio=0.5).merges_inside]
        )
        for name in METHODS
    ],
)
def test_every_method(name: str, label: str) -> None:
    USES["one row"](name, get_method(label, retain_ratio=0.5), "sdpa")


@most_families
def test_a_model_is_what_it_was_after_detaching(name: str) -> None:
    one = small(name)
    before = copy.copy(one.model.model.__dict__), copy.copy(one.model.__dict__)

    def hooks() -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in one.model.modules())

    hooked = hooks()
    handle = HOLITOM.attach(one.model)
    handle.detach()
    assert [one.model.model.__dict__.keys(), one.model.__dict__.keys()] == [part.keys() for part in before]
    assert hooks() == hooked


@pytest.mark.slow
@each_family
@each_method
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_batches_with_every_kind_of_stage(name: str, method: Method, side: str, attention: str) -> None:
    one = small(name, attention)
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6", "w5 <video> w6 <video> w7"]
    videos = [one.video(), one.video(1, kind=1), one.video(2), one.video(3, kind=1)]
    own = [videos[:1], videos[1:2], videos[2:]]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    alone = [one.inputs(prompt, videos=its) for prompt, its in zip(prompts, own, strict=True)]
    for use_cache in (True, False):
        run(name, inputs, alone, method, attention, use_cache=use_cache)


@pytest.mark.slow
@each_family
@pytest.mark.parametrize("label", METHODS)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_cell(name: str, label: str, use: str, attention: str) -> None:
    USES[use](name, get_method(label, retain_ratio=0.5), attention)
