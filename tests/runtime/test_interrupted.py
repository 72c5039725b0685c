"""A forward that ends early, by an error or Ctrl-C, leaves a cache as it was, or one that says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import small
from support.methods import EveryOther
from support.tiny import Tiny, video
from torch import Tensor
from transformers import DynamicCache, StaticCache

from holitom import UnsupportedUsageError

OUTER, INNER = EveryOther(), EveryOther(layers=(2,))
QUESTION = {"input_ids": torch.tensor([[12, 13, 14]])}
each_method = pytest.mark.parametrize("method", [OUTER, INNER], ids=["outer", "inner"])
each_error = pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])


@pytest.fixture
def inputs(tiny: Tiny) -> Any:
    return tiny.inputs("w1 <video> w2 w3", videos=[video()])


@torch.no_grad()
def logits(model: Any, inputs: Any, cache: Any) -> Tensor:
    out: Tensor = model(**inputs, past_key_values=cache).logits
    return out


def cut_short(model: Any, layer: int, error: type[BaseException], run: Any) -> None:
    """Run `run` to `layer` of the language model, where `error` ends it."""

    def stop(*_: Any) -> None:
        raise error

    with model.model.language_model.layers[layer].register_forward_hook(stop), pytest.raises(error):
        run()


@each_method
@each_error
@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_cache_is_as_before(
    tiny: Tiny, inputs: Any, method: Any, error: type[BaseException], layer: int, lazy: bool
) -> None:
    """In the prefill and in a later turn; layers before the one that failed have taken in new columns."""
    model = tiny.model

    def new() -> Any:
        return DynamicCache() if lazy else DynamicCache(config=model.config)

    with method(model):
        cache = new()
        wanted = logits(model, inputs, cache), logits(model, QUESTION, cache)
        cache = new()
        cut_short(model, layer, error, lambda: logits(model, inputs, cache))
        assert torch.equal(logits(model, inputs, cache), wanted[0])
        cut_short(model, layer, error, lambda: logits(model, QUESTION, cache))
        assert torch.equal(logits(model, QUESTION, cache), wanted[1])


@each_method
@each_error
def test_a_conversation_goes_on_after_an_interrupted_answer(
    tiny: Tiny, inputs: Any, method: Any, error: type[BaseException]
) -> None:
    model, columns = tiny.model, inputs["input_ids"].shape[1]
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    with method(model):
        cache = DynamicCache(config=model.config)
        wanted = model.generate(**inputs, past_key_values=cache, **settings)
        steps: list[int] = []

        def stop(*_: Any) -> None:
            steps.append(1)
            if len(steps) == 3:  # the prefill, a step, and in the middle of the next
                raise error

        cache = DynamicCache(config=model.config)
        with model.model.language_model.layers[1].register_forward_hook(stop), pytest.raises(error):
            model.generate(**inputs, past_key_values=cache, **settings)
        assert cache.get_seq_length() == columns + 1
        said = wanted[:, : columns + 2]
        rest = model.generate(
            input_ids=said,
            attention_mask=torch.ones_like(said),
            past_key_values=cache,
            **settings | {"max_new_tokens": 3},
        )
    assert torch.equal(rest, wanted)


def test_an_interrupted_cache_still_needs_a_method(tiny: Tiny, inputs: Any) -> None:
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    with INNER(model):
        logits(model, inputs, cache)
        cut_short(model, 3, KeyboardInterrupt, lambda: logits(model, QUESTION, cache))
    with pytest.raises(UnsupportedUsageError, match="no method attached"):
        logits(model, QUESTION, cache)


def test_labels_that_are_refused_leave_the_cache_as_it_was(tiny: Tiny, inputs: Any) -> None:
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    with INNER(model):
        wanted = logits(model, inputs, DynamicCache(config=model.config))
        with pytest.raises(UnsupportedUsageError, match="-100"):
            model(**inputs, labels=inputs["input_ids"], past_key_values=cache)
        assert torch.equal(logits(model, inputs, cache), wanted)


@each_method
@each_error
def test_a_static_cache_says_so(tiny: Tiny, inputs: Any, method: Any, error: type[BaseException]) -> None:
    model, cache = tiny.model, StaticCache(config=tiny.model.config, max_cache_len=200)
    one = {"input_ids": torch.tensor([[12]])}
    with method(model):
        wanted = logits(model, inputs, cache)
        cut_short(model, 1, error, lambda: logits(model, one, cache))
        with pytest.raises(UnsupportedUsageError, match=r"reset\(\) this one"):
            logits(model, one, cache)
        with pytest.raises(UnsupportedUsageError, match=r"reset\(\) this one"):
            model.generate(**inputs, past_key_values=cache, max_new_tokens=2)
        cache.reset()
        assert torch.equal(logits(model, inputs, cache), wanted)


def test_recurrent_states_say_so() -> None:
    one = small("qwen3.5")
    text = one.model.config.get_text_config()
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    cache = DynamicCache(config=text)
    with OUTER(one.model):
        wanted = logits(one.model, inputs, cache)
        cut_short(one.model, 2, KeyboardInterrupt, lambda: logits(one.model, QUESTION, cache))
        with pytest.raises(UnsupportedUsageError, match="recurrent states, whose latest forward"):
            logits(one.model, QUESTION, cache)
        assert torch.equal(logits(one.model, inputs, DynamicCache(config=text)), wanted)
