"""A mask that merging cannot follow is refused in words of its own; any other is followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.reference import reference_logits
from support.tiny import Tiny, video
from torch.testing import assert_close
from transformers import DynamicCache, StaticCache

from holitom import HoliTom, Method, UnsupportedUsageError

OUTER, INNER = EveryOther(), EveryOther(layers=(2,))
HOLITOM = HoliTom(retain_ratio=0.25, similarity_threshold=0.8)
each_method = pytest.mark.parametrize("method", [OUTER, INNER, HOLITOM], ids=["outer", "inner", "holitom"])


@pytest.fixture
def inputs(tiny: Tiny) -> Any:
    return tiny.inputs("w1 <video> w2 w3 w4", videos=[video()])


@each_method
@pytest.mark.parametrize("hidden", ["one", "all"])
def test_hidden_placeholders_are_refused(tiny: Tiny, inputs: Any, method: Any, hidden: str) -> None:
    """A merged token would be shown, whatever it stands for. Where nothing merges the stock model runs."""
    held = (inputs["input_ids"][0] == tiny.model.config.video_token_id).nonzero()[:, 0]
    inputs["attention_mask"][0, held[5:6] if hidden == "one" else held] = 0
    given = {**inputs, "position_ids": torch.arange(len(inputs["input_ids"][0]))[None]}
    with torch.no_grad():
        full = tiny.model(**given).logits
        with Method(1.0)(tiny.model):
            assert torch.equal(tiny.model(**given).logits, full)
        with method(tiny.model):
            with pytest.raises(UnsupportedUsageError, match="0 at video placeholders"):
                tiny.model(**given)
            with pytest.raises(UnsupportedUsageError, match="0 at video placeholders"):
                tiny.model.generate(**inputs, max_new_tokens=1)


@each_method
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int32])
def test_hidden_text_is_left_out(tiny: Tiny, inputs: Any, method: Any, kind: torch.dtype) -> None:
    """A token in the middle that the mask hides is as if it were not there, in a mask of any type."""
    alone = tiny.inputs("w1 <video> w3 w4", videos=[video()])
    mask = inputs["attention_mask"]
    mask[0, -3] = 0
    inputs["attention_mask"] = mask.to(kind) / 2 if kind.is_floating_point else mask.to(kind)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with method(tiny.model), torch.no_grad():
        got = tiny.model(**inputs, position_ids=positions).logits[0, -1:]
        with pytest.raises(UnsupportedUsageError, match="none were given"):
            tiny.model(**inputs)
    assert_close(got, reference_logits(tiny.model, alone, method, []), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5), (2, 68), (1, 200)])
def test_a_mask_of_another_shape(tiny: Tiny, inputs: Any, shape: tuple[int, int]) -> None:
    inputs["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    columns = inputs["input_ids"].shape[1]
    told = rf"\(\[{shape[0]}, {shape[1]}\] for \[1, {columns}\]\).*pass a 2D attention_mask"
    with INNER(tiny.model), pytest.raises(UnsupportedUsageError, match=told):
        tiny.model(**inputs)


def test_a_mask_of_another_shape_over_a_merged_cache(tiny: Tiny, inputs: Any) -> None:
    more, columns = torch.tensor([[12, 13]]), inputs["input_ids"].shape[1] + 2
    with INNER(tiny.model), torch.no_grad():
        cache = tiny.model(**inputs, use_cache=True).past_key_values
        for wrong in (1, columns - 1, columns + 3):
            with pytest.raises(UnsupportedUsageError, match=rf"\[1, {wrong}\] for \[1, {columns}\]"):
                tiny.model(input_ids=more, attention_mask=torch.ones(1, wrong), past_key_values=cache)
        wanted = tiny.model(input_ids=more, past_key_values=cache).logits
        for right in (2, columns):
            cache.crop(-2)
            got = tiny.model(input_ids=more, attention_mask=torch.ones(1, right), past_key_values=cache)
            assert torch.equal(got.logits, wanted)


def test_caches_that_are_none(tiny: Tiny, inputs: Any) -> None:
    """`generate` refuses them itself, in transformers' words."""
    with INNER(tiny.model):
        with pytest.raises(UnsupportedUsageError, match=r"\(tuple\).*use a DynamicCache"):
            tiny.model(**inputs, past_key_values=((torch.zeros(1), torch.zeros(1)),))
        with pytest.raises(ValueError, match="tuple"):
            tiny.model.generate(**inputs, past_key_values=((torch.zeros(1), torch.zeros(1)),))


@each_method
def test_a_static_cache_that_is_shorter_than_the_prompt(tiny: Tiny, inputs: Any, method: Any) -> None:
    columns = inputs["input_ids"].shape[1]
    cache = StaticCache(config=tiny.model.config, max_cache_len=columns - 1)
    with method(tiny.model), torch.no_grad():
        told = rf"\({columns - 1} columns for {columns}\).*max_cache_len"
        with pytest.raises(UnsupportedUsageError, match=told):
            tiny.model(**inputs, past_key_values=cache)
        enough = StaticCache(config=tiny.model.config, max_cache_len=columns)
        got = tiny.model(**inputs, past_key_values=enough).logits
        wanted = tiny.model(**inputs, past_key_values=DynamicCache(config=tiny.model.config)).logits
    assert_close(got, wanted, atol=2e-4, rtol=1e-4)
