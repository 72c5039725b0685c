"""Language models some of whose layers carry a state: Qwen3.5's kind, three of four layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.families import Small, ready, small
from support.families.qwen import IDS
from support.families.qwen3_5 import LANGUAGE, TOWER
from support.methods import EveryOther
from support.reference import extended, reference_logits
from torch.testing import assert_close
from transformers import DynamicCache, Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.cache_utils import DynamicLayer

from holitom import HoliTom, SettingsError, UnsupportedUsageError
from holitom.methods import get_method

NAME = "qwen3.5"


def published(attention: str) -> Small:
    """Layers in the order that published checkpoints have them: three with a state, one that attends."""
    torch.manual_seed(0)
    language = {**LANGUAGE, "num_hidden_layers": 8, "layer_types": None}
    config = Qwen3_5Config(text_config=language, vision_config=TOWER, **IDS)
    model = Qwen3_5ForConditionalGeneration._from_config(config, attn_implementation=attention)
    return Small(small(NAME).family, ready(model), small(NAME).processor)


@pytest.mark.parametrize("method", [HoliTom(0.4), EveryOther(layers=(4, 6), own_attention=True)])
def test_published_layers_against_their_own_run_by_hand(method: Any) -> None:
    """Stage 5 of 8 (HoliTom) is ranked by layer 3; 4 and 6, which do not attend themselves, likewise."""
    one = published("sdpa")
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    with torch.no_grad(), method(one.model):
        merged = one.model(**inputs).logits[0, -1:]
    wanted = reference_logits(one.model, inputs, method, [])
    assert_close(merged, wanted, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("method", [EveryOther(layers=(3,)), get_method("fastv", retain_ratio=0.5)])
def test_nothing_to_rank_by_is_said_before_anything_runs(method: Any) -> None:
    with pytest.raises(SettingsError, match=r"layers before 3 do not attend.*merge at layer 4 or later"):
        method.attach(published("sdpa").model)


def prefilled(one: Small, method: Any, *prompts: str) -> tuple[Any, Any, DynamicCache]:
    inputs = one.inputs(*prompts, videos=[one.video(seed) for seed in range(len(prompts))])
    cache = DynamicCache(config=one.model.config.text_config)
    with torch.no_grad(), method(one.model) as run:
        one.model(**inputs, past_key_values=cache)
    return inputs, run, cache


def test_rows_of_several_lengths_do_not_go_on_over_states() -> None:
    """A state would run over the padding: the stock model's does, so a row would not be the row alone."""
    one = small(NAME)
    inputs, _, cache = prefilled(one, HoliTom(0.4), "w1 <video> w2", "<video> w3")
    longer = extended(inputs, [12, 13])
    text = {name: longer[name] for name in ("input_ids", "attention_mask")}
    with HoliTom(0.4)(one.model):
        one.model.generate(**text, past_key_values=copy.deepcopy(cache), max_new_tokens=1)
        text["attention_mask"][1, -1] = 0
        with pytest.raises(UnsupportedUsageError, match="one row at a time, or with rows of one length"):
            one.model.generate(**text, past_key_values=cache, max_new_tokens=1)


def test_states_are_not_written_over_without_a_method() -> None:
    one = small(NAME)
    _, _, cache = prefilled(one, HoliTom(0.4), "w1 <video> w2")
    states = [layer for layer in cache.layers if not isinstance(layer, DynamicLayer)]
    before = [layer.recurrent_states[0].clone() for layer in states]
    with pytest.raises(UnsupportedUsageError, match="no method attached"), torch.no_grad():
        one.model(input_ids=torch.tensor([[12]]), past_key_values=cache)
    assert all(torch.equal(layer.recurrent_states[0], was) for layer, was in zip(states, before, strict=True))


def test_the_report_counts_keys_values_and_states() -> None:
    one = small(NAME)
    inputs, run, cache = prefilled(one, HoliTom(0.4), "w1 <video> w2")
    states = 0
    held = []
    for layer in cache.layers:
        if isinstance(layer, DynamicLayer):
            held.append(layer.keys.nbytes + layer.values.nbytes)
        else:
            states += layer.conv_states[0].nbytes + layer.recurrent_states[0].nbytes
    assert run.last.kv_bytes == states + sum(held)
    columns = inputs["input_ids"].shape[1]
    per_column = 2 * 2 * 16 * 4  # keys and values of two heads of 16 floats
    assert run.last.kv_bytes_full == states + len(held) * columns * per_column
