"""Every family on the same matrix of uses, against its own layers run by hand on what is left.

One method for each kind of stage everywhere; what is only more of the same is marked slow.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from support.families import FAMILIES, small
from support.families.reference import (
    extended,
    language_arguments,
    packed,
    positions_of,
    reference_logits,
)
from support.reference import EveryOther
from torch.testing import assert_close
from transformers import DynamicCache

from holitom import HoliTom, Method
from holitom.methods import METHODS, get_method
from holitom.models import adapter_for

OUTER = EveryOther()
EARLY = EveryOther(layers=(1,))  # before the last of DeepStack's layers
STAGED = EveryOther(layers=(2, 3))
OWN = EveryOther(layers=(2,), own_attention=True)
HOLITOM = HoliTom(retain_ratio=0.4, similarity_threshold=0.8)
CHOSEN = {"outer": OUTER, "early": EARLY, "staged": STAGED, "own": OWN, "holitom": HOLITOM}
STEPS = 3
CLOSE = {"atol": 3e-4, "rtol": 1e-3}

# These differ from one above them in a class or a feed-forward alone.
KIN = ("qwen2-vl", "qwen3-vl-moe", "cosmos3", "glm-4.5v", "glm-4.6v", "glm-ocr")
each_family = pytest.mark.parametrize("name", FAMILIES)
most_families = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in KIN)) for name in FAMILIES]
)
each_method = pytest.mark.parametrize("method", CHOSEN.values(), ids=CHOSEN)


def generated(model: Any, inputs: Any, method: Method | None, **settings: Any) -> Any:
    settings = {
        "max_new_tokens": STEPS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    } | settings
    if method is None:
        return model.generate(**inputs, **settings)
    with method(model):
        return model.generate(**inputs, **settings)


def assert_row(name: str, out: Any, row: int, prompt: int, alone: Any, method: Method, **more: Any) -> None:
    """Row `row` of what was generated behind `prompt` columns is the reference's for `alone`."""
    answer = out.sequences[row, prompt:].tolist()
    more = {"sees": small(name)} | more
    wanted = reference_logits(small(name, "eager"), alone, method, answer[:-1], **more)
    assert_close(torch.stack(out.logits)[:, row], wanted[-len(answer) :], **CLOSE)


def run(name: str, inputs: Any, alone: list[Any], method: Method, attention: str = "sdpa", **kw: Any) -> None:
    one = small(name, attention)
    out = generated(one.model, inputs, method, suppress_tokens=one.unspoken, **kw)
    for row, own in enumerate(alone):
        assert_row(name, out, row, inputs["input_ids"].shape[1], own, method, sees=one)


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
@each_method
def test_one_row(name: str, method: Method) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    run(name, inputs, [inputs], method)


@most_families
def test_the_merged_answer_is_not_the_full_one(name: str) -> None:
    """The other tests would pass with nothing attached if it were."""
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    full = generated(one.model, inputs, None)
    for method in CHOSEN.values():
        merged = generated(one.model, inputs, method)
        assert not torch.allclose(full.logits[0], merged.logits[0], atol=1e-2)


@each_family
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", [HOLITOM, EARLY], ids=["holitom", "early"])
def test_a_row_of_a_batch_is_the_row_alone(name: str, side: str, method: Method) -> None:
    """Videos of two sizes and lengths, two in one row, none in another."""
    one = small(name)
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6", "w11 w12", "w5 <video> w6 <video> w7"]
    videos = [one.video(), one.video(1, kind=1), one.video(2), one.video(3, kind=1)]
    own = [videos[:1], videos[1:2], None, videos[2:]]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    alone = [one.inputs(prompt, videos=its) for prompt, its in zip(prompts, own, strict=True)]
    run(name, inputs, alone, method)


@most_families
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_a_cache(name: str, attention: str) -> None:
    one = small(name, attention)
    videos = [one.video(), one.video(1, kind=1)]
    prompts = ["w1 <video> w2", "<video> w9 w8 w7 w6"]
    inputs = one.inputs(*prompts, videos=videos, side="right")
    alone = [one.inputs(prompt, videos=[its]) for prompt, its in zip(prompts, videos, strict=True)]
    run(name, inputs, alone, STAGED, attention, use_cache=False)


@most_families
def test_images_stay_whole(name: str) -> None:
    one = small(name)
    if not one.family.images:
        pytest.skip("the stock model takes no images beside a video")
    inputs = one.inputs(
        "w1 <image> w2 <video> w3 <image> w4", videos=[one.video()], images=[one.image(), one.image(1)]
    )
    for method in (HOLITOM, EARLY):
        run(name, inputs, [inputs], method)


@most_families
@pytest.mark.parametrize("method", [HOLITOM, EARLY], ids=["holitom", "early"])
def test_beams(name: str, method: Method) -> None:
    """They are those of each row alone, and those without a cache."""
    one = small(name)
    if not one.family.beams:
        pytest.skip("the stock model fails with beams and videos")
    prompts = ["w1 <video> w2 w3", "<video> w9 <video> w4"]
    videos = [one.video(), one.video(1, kind=1), one.video(2)]
    settings = {"num_beams": 3, "num_return_sequences": 2, "output_logits": False}
    settings["suppress_tokens"] = one.unspoken
    inputs = one.inputs(*prompts, videos=videos)
    out = generated(one.model, inputs, method, **settings).sequences
    assert torch.equal(out, generated(one.model, inputs, method, use_cache=False, **settings).sequences)
    for row, its in enumerate([videos[:1], videos[1:]]):
        alone = one.inputs(prompts[row], videos=its)
        wanted = generated(one.model, alone, method, **settings).sequences
        length = alone["input_ids"].shape[1]
        assert torch.equal(out[2 * row : 2 * row + 2, -STEPS:], wanted[:, length:])


@most_families
@pytest.mark.parametrize("method", [HOLITOM, OWN], ids=["holitom", "own"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_second_question_over_the_cache(name: str, method: Method, side: str) -> None:
    one = small(name)
    prompts, question = ["w1 <video> w2", "<video> w9 w8 w7 w6"], [12, 13, 14]
    videos = [one.video(), one.video(1, kind=1)]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    cache = DynamicCache(config=one.model.config.get_text_config())
    text = {"suppress_tokens": one.unspoken}
    with method(one.model):
        first = generated(one.model, inputs, None, past_key_values=cache, **text)
        columns = first.sequences.shape[1]
        assert cache.get_seq_length() == columns - 1
        longer = extended(inputs, [0] * (STEPS + len(question)))
        longer["input_ids"] = torch.cat([first.sequences, torch.tensor([question] * 2)], dim=1)
        only_text = {name: longer[name] for name in ("input_ids", "attention_mask")}
        out = generated(one.model, only_text, None, past_key_values=cache, **text)
    for row, (prompt, its) in enumerate(zip(prompts, videos, strict=True)):
        alone = one.inputs(prompt, videos=[its])
        answer = out.sequences[row, inputs["input_ids"].shape[1] :].tolist()
        wanted = reference_logits(small(name, "eager"), alone, method, answer[:-1])
        assert_close(torch.stack(out.logits)[:, row], wanted[-STEPS:], **CLOSE)


@most_families
@pytest.mark.parametrize("method", [OUTER, EARLY, OWN], ids=["outer", "early", "own"])
def test_a_second_video_over_the_cache(name: str, method: Method) -> None:
    """The caller sends the whole conversation, with the features of the new video alone."""
    one = small(name)
    if not one.family.later_videos:
        pytest.skip("the stock model takes a video that comes over a cache for text")
    videos = [one.video(), one.video(1, kind=1)]
    first = one.inputs("w1 <video> w2 w3", videos=videos[:1])
    both = one.inputs("w1 <video> w2 w3 w9 <video> w4", videos=videos)
    new = one.inputs("w9 <video> w4", videos=videos[1:])
    turns = [first["input_ids"].shape[1], both["input_ids"].shape[1]]
    with method(one.model), torch.no_grad():
        cache = one.model(**first, use_cache=True).past_key_values
        adapter = adapter_for(one.model)
        encode = getattr(adapter.trunk, adapter.encoder)
        pixels = {k: v for k, v in new.items() if k in inspect.signature(encode).parameters}
        whole = {k: v for k, v in both.items() if k != adapter.pixels_name}
        if "video_compression_mask" in new:
            whole["video_compression_mask"] = new["video_compression_mask"]
        whole["mm_encoder_outputs"] = {adapter.modality: encode(**pixels, return_dict=True)}
        out = generated(one.model, whole, None, past_key_values=cache, suppress_tokens=one.unspoken)
    assert_row(name, out, 0, turns[1], both, method, turns=turns)


@most_families
def test_bfloat16(name: str) -> None:
    one = small(name, "sdpa", torch.bfloat16)
    videos = [one.video(), one.video(1, kind=1)]
    inputs = one.inputs("w1 <video> w2 w3", "<video> w4", videos=videos)
    alone = one.inputs("<video> w4", videos=videos[1:])
    for method in (HOLITOM, STAGED):
        out, own = (generated(one.model, each, method, max_new_tokens=1) for each in (inputs, alone))
        assert out.logits[0].isfinite().all()
        assert_close(out.logits[0][1], own.logits[0][0], atol=0.3, rtol=0.1)


@each_family
def test_what_is_left_keeps_the_positions_of_the_unmerged_model(name: str) -> None:
    """And later layers hold fewer keys."""
    one = small(name)
    adapter: Any = adapter_for(one.model)
    if not adapter.keeps_positions:
        pytest.skip("one position axis: what is left is numbered anew")
    inputs = one.inputs("w1 <video> w2 w3 w4", videos=[one.video()])
    full = language_arguments(one, inputs)
    seen: list[Any] = []
    hook = adapter.language_model.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids", args[-1])), with_kwargs=True
    )
    with STAGED(one.model), torch.no_grad():
        cache = one.model(**inputs, use_cache=True).past_key_values
        one.model(input_ids=torch.tensor([[12]]), past_key_values=cache)
    hook.remove()
    left = packed(one, inputs, STAGED)
    assert torch.equal(seen[0][:, 0].expand(3, -1), positions_of(full)[:, left.column])
    assert seen[1].flatten().unique().tolist() == [int(positions_of(full).max()) + 1]
    visual = int(left.visual.sum())
    half = visual - visual // 2
    lengths = [len(left.column), len(left.column) - visual // 2]
    lengths.append(lengths[1] - half // 2)
    held = [layer.keys.shape[-2] - 1 for layer in cache.layers]
    assert held == [*lengths[:1] * 2, lengths[1], *lengths[2:] * (len(held) - 3)]


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
        wanted = reference_logits(small(name, "eager"), alone, HOLITOM, [])
        assert_close(out[row, int(inputs["attention_mask"][row].nonzero()[-1])][None], wanted, **CLOSE)


@most_families
@pytest.mark.parametrize("label", METHODS)
def test_every_method(name: str, label: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    run(name, inputs, [inputs], get_method(label, retain_ratio=0.5))


@most_families
def test_a_model_is_what_it_was_after_detaching(name: str) -> None:
    one = small(name)
    before = copy.copy(one.model.model.__dict__)

    def hooks() -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in one.model.modules())

    hooked = hooks()
    handle = HOLITOM.attach(one.model)
    handle.detach()
    assert one.model.model.__dict__.keys() == before.keys()
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
