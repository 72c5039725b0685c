"""Static caches and compiled steps: a merged prompt is answered as over the default cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import FAMILIES, Small, small
from support.methods import EveryOther
from torch.testing import assert_close
from transformers import CompileConfig, DynamicCache, StaticCache

from holitom import HoliTom, Method
from holitom.models import adapter_for

KINDS = ("llava-onevision", "qwen2.5-vl", "qwen3.5", "internvl", "videollama3")  # one of each kind
OUTER, INNER, WHOLE = EveryOther(), EveryOther(layers=(2, 3)), Method(1.0)
STATIC: dict[str, Any] = {"cache_implementation": "static"}
LONG = 400
each_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in KINDS)) for name in FAMILIES]
)


def asked(one: Small, inputs: Any, **more: Any) -> Any:
    return one.model.generate(
        **inputs,
        **{"max_new_tokens": 5, "do_sample": False, "suppress_tokens": one.unspoken} | more,
        output_logits=True,
        return_dict_in_generate=True,
    )


def check_alike(one: Small, static: Any, dynamic: Any) -> None:
    """Of two answers; the kernels of a static cache sum over more keys."""
    assert torch.equal(static.sequences, dynamic.sequences)
    assert_close(torch.stack(static.logits), torch.stack(dynamic.logits), **one.family.close)


@each_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_over_a_static_cache(name: str, side: str) -> None:
    """Rows of different lengths, two videos in one, none in another."""
    one = small(name)
    prompts = ["w1 <video> w2 w3", "w11 w12", "w5 <video> w6 <video> w7"]
    videos = [one.video(), one.video(2), one.video(3, kind=1)]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    for method in (OUTER, INNER, WHOLE):
        with method(one.model):
            check_alike(one, asked(one, inputs, **STATIC), asked(one, inputs))


@each_family
def test_each_level_is_allocated_for_what_it_holds(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2", videos=[one.video(seed) for seed in range(1)])
    columns = inputs["input_ids"].shape[1]
    text = one.model.config.get_text_config()
    cache = StaticCache(config=text, max_cache_len=columns + 200)
    with INNER(one.model) as run, torch.no_grad():
        one.model(**inputs, past_key_values=cache)
    assert run.last is not None
    assert int(cache.get_seq_length()) == columns
    attending = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    for layer in attending:
        held, places = int(layer.cumulative_length), layer.keys.shape[2]
        assert held < columns
        assert held + 200 <= places <= min(columns, held + 63) + 200
    assert run.last.kv_bytes <= run.last.kv_bytes_full
    cache.reset()  # as long as it was
    with torch.no_grad():
        one.model(**one.inputs("w1 w2"), past_key_values=cache)
    assert {layer.keys.shape[2] for layer in attending} == {columns + 200}


@each_family
def test_turns_over_a_static_cache(name: str) -> None:
    """A video, a question of several words, another video where the stock model can; words between."""
    one = small(name)
    text = one.model.config.get_text_config()
    first = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    for method in (OUTER, INNER):
        outs = []
        for cache in (DynamicCache(config=text), StaticCache(config=text, max_cache_len=LONG)):
            with method(one.model), torch.no_grad():
                out = asked(one, first, past_key_values=cache)
                more = torch.cat([out.sequences, torch.tensor([[12, 13, 14]])], dim=1)
                turn = {"input_ids": more, "attention_mask": torch.ones_like(more)}
                outs.append(asked(one, turn, past_key_values=cache))
        check_alike(one, outs[1], outs[0])


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_beams_and_guesses_over_a_static_cache(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3 w2 w3", videos=[one.video()])
    for method in (OUTER, INNER):
        with method(one.model):
            for more in ({"num_beams": 3}, {"prompt_lookup_num_tokens": 2}):
                got, wanted = asked(one, inputs, **more, **STATIC), asked(one, inputs, **more)
                assert torch.equal(got.sequences, wanted.sequences)


def compiled(graphs: list[int]) -> dict[str, Any]:
    """Settings of `generate` that compile each step, in one graph, and count the graphs."""

    def backend(graph: Any, example_inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    config._compile_all_devices = True
    return {**STATIC, "compile_config": config}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", [OUTER, INNER, WHOLE], ids=["outer", "inner", "whole"])
def test_a_compiled_step_is_one_graph(name: str, method: Method) -> None:
    """Also of padded rows; the next prompts of about that length take it too, and text the stock model's."""
    one = small(name)
    prompts = ["w1 <video> w2 w3", "w11 w12"]
    inputs = one.inputs(*prompts, videos=[one.video()])
    text = one.inputs("w1 w2 w3", "w4 w5")
    torch.compiler.reset()
    wanted = asked(one, text)
    graphs: list[int] = []
    settings = compiled(graphs)
    with method(one.model) as run:
        check_alike(one, asked(one, inputs, **settings), asked(one, inputs))
        assert len(graphs) == 1
        assert run.last is not None
        assert run.last.seconds["decoding"] > 0
        other = one.inputs(*prompts, videos=[one.video(7)])
        check_alike(one, asked(one, other, **settings), asked(one, other))
        assert len(graphs) == 1
        check_alike(one, asked(one, text, **settings), wanted)
    torch.compiler.reset()


@pytest.mark.slow
def test_a_compiled_step_of_holitom() -> None:
    one = small("llava-onevision")
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    torch.compiler.reset()
    graphs: list[int] = []
    with HoliTom(0.4, similarity_threshold=0.8)(one.model):
        check_alike(one, asked(one, inputs, **compiled(graphs)), asked(one, inputs))
    assert len(graphs) == 1
    torch.compiler.reset()


def test_a_merged_static_cache_needs_a_method() -> None:
    one = small("llava-onevision")
    adapter = adapter_for(one.model)
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    cache = StaticCache(config=adapter.language_model.config, max_cache_len=LONG)
    with INNER(one.model), torch.no_grad():
        one.model(**inputs, past_key_values=cache)
    with pytest.raises(Exception, match="no method attached"), torch.no_grad():
        one.model(input_ids=torch.tensor([[12]]), past_key_values=cache)
