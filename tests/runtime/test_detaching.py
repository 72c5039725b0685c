"""A method is detached between forwards: one that runs ends with the method, the next begins without it."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.tiny import Tiny, video
from transformers import DynamicCache

from holitom import HoliTom, UnsupportedUsageError

OUTER, INNER = EveryOther(), EveryOther(layers=(2,))
HOLITOM = HoliTom(retain_ratio=0.25, similarity_threshold=0.8)


@pytest.fixture
def inputs(tiny: Tiny) -> Any:
    return tiny.inputs("w1 <video> w2 w3", videos=[video()])


@torch.no_grad()
def logits(model: Any, inputs: Any, **settings: Any) -> Any:
    return model(**inputs, **settings).logits


def stopped_in(module: Any) -> tuple[Any, Event, Event]:
    """Let the next forward of `module` wait: the hook, when it has come there, and what lets it go on."""
    here, on = Event(), Event()

    def wait(*_: Any) -> None:
        here.set()
        assert on.wait(20)

    return module.register_forward_pre_hook(wait), here, on


@pytest.mark.parametrize("where", ["vision_tower", "language_model"])
@pytest.mark.parametrize("method", [OUTER, INNER, HOLITOM], ids=["outer", "inner", "holitom"])
def test_a_forward_of_another_thread_ends_with_the_method(
    tiny: Tiny, inputs: Any, method: Any, where: str
) -> None:
    model = tiny.model
    stock = logits(model, inputs)
    with method(model):
        wanted = logits(model, inputs)
    assert not torch.equal(wanted, stock)
    handle = method.attach(model)
    part = getattr(model.model, where)
    layer = part.layers[1] if where == "language_model" else part.encoder.layers[0]
    hook, here, on = stopped_in(layer)
    with hook, ThreadPoolExecutor(2) as pool:
        running = pool.submit(logits, model, inputs)
        assert here.wait(20)
        detaching = pool.submit(handle.detach)
        with pytest.raises(TimeoutError):
            detaching.result(0.1)
        on.set()
        assert torch.equal(running.result(20), wanted)
        detaching.result(20)
    assert torch.equal(logits(model, inputs), stock)
    assert handle.last is not None
    with method(model):
        assert torch.equal(logits(model, inputs), wanted)


class Waiting:
    """A streamer that waits in the middle of an answer, or at its end."""

    def __init__(self, at_end: bool = False) -> None:
        self.seen, self.on, self._at_end = Event(), Event(), at_end

    def put(self, ids: Any) -> None:
        if ids.dim() == 1 and not self._at_end:  # of the answer
            self._wait()

    def end(self) -> None:
        if self._at_end:
            self._wait()

    def _wait(self) -> None:
        self.seen.set()
        assert self.on.wait(20)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({}, "no method attached"), ({"use_cache": False}, "before it ended")],
    ids=["cache", "no cache"],
)
def test_what_another_thread_generates_is_not_gone_on_with(
    tiny: Tiny, inputs: Any, settings: dict[str, Any], why: str
) -> None:
    model, streamer = tiny.model, Waiting()
    with ThreadPoolExecutor(1) as pool:
        with INNER(model):
            running = pool.submit(model.generate, **inputs, max_new_tokens=5, streamer=streamer, **settings)
            assert streamer.seen.wait(20)
        streamer.on.set()
        with pytest.raises(UnsupportedUsageError, match=why):
            running.result(20)


def test_a_method_detached_between_encoding_and_prefill_is_told(
    tiny: Tiny, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generate` encodes first; the language model would run full tokens."""
    model, here, on = tiny.model, Event(), Event()
    own = model._prepare_cache_for_generation

    def waiting(*args: Any, **kwargs: Any) -> Any:
        here.set()
        assert on.wait(20)
        return own(*args, **kwargs)

    monkeypatch.setattr(model, "_prepare_cache_for_generation", waiting)
    with ThreadPoolExecutor(1) as pool:
        with OUTER(model):
            running = pool.submit(model.generate, **inputs, max_new_tokens=5)
            assert here.wait(20)
        on.set()
        with pytest.raises(UnsupportedUsageError, match="before it ended"):
            running.result(20)


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}], ids=["cache", "no cache"])
def test_an_answer_that_has_ended_is_returned(tiny: Tiny, inputs: Any, settings: dict[str, Any]) -> None:
    """Who reads a streamer to its end and detaches may be faster than `generate` returns."""
    model, settings = tiny.model, {"max_new_tokens": 5, "suppress_tokens": [3, 4], **settings}
    streamer = Waiting(at_end=True)
    with ThreadPoolExecutor(1) as pool:
        with INNER(model):
            wanted = model.generate(**inputs, **settings)
            running = pool.submit(model.generate, **inputs, **settings, streamer=streamer)
            assert streamer.seen.wait(20)
        streamer.on.set()
        assert torch.equal(running.result(20), wanted)


def test_inside_a_forward_nothing_is_detached(tiny: Tiny, inputs: Any) -> None:
    """The error leaves the method attached, and the forward unharmed."""
    model = tiny.model
    stock = logits(model, inputs)
    for part in (model.model.vision_tower, model.model.language_model.layers[1]):
        handle = INNER.attach(model)
        wanted = logits(model, inputs)
        told: list[UnsupportedUsageError] = []

        def detach(*_: Any, handle: Any = handle, told: Any = told) -> None:
            with pytest.raises(UnsupportedUsageError, match="when the forward has ended") as error:
                handle.detach()
            told.append(error.value)

        with part.register_forward_pre_hook(detach):
            assert torch.equal(logits(model, inputs), wanted)
        assert len(told) == 1
        assert torch.equal(logits(model, inputs), wanted)
        handle.detach()
        assert torch.equal(logits(model, inputs), stock)


def test_an_interrupted_forward_hinders_no_detaching(tiny: Tiny, inputs: Any) -> None:
    """Neither one of this thread nor one of another."""
    model = tiny.model
    stock = logits(model, inputs)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def ask() -> None:
        with pytest.raises(KeyboardInterrupt):
            logits(model, inputs)

    for pool in (None, ThreadPoolExecutor(1)):
        handle = INNER.attach(model)
        with model.model.language_model.layers[1].register_forward_pre_hook(interrupt):
            if pool is None:
                ask()
            else:
                pool.submit(ask).result(20)
        handle.detach()
        assert torch.equal(logits(model, inputs), stock)
        if pool is not None:
            pool.shutdown()


def test_a_block_is_entered_again_and_a_handle_is_one(tiny: Tiny, inputs: Any) -> None:
    model = tiny.model
    stock = logits(model, inputs)
    block, seen = OUTER(model), []
    for _ in range(2):
        with block:
            seen.append(logits(model, inputs))
            with pytest.raises(UnsupportedUsageError, match="attached to this model already"), block:
                pass
        assert torch.equal(logits(model, inputs), stock)

    @OUTER(model)
    def ask() -> Any:
        return logits(model, inputs)

    seen += [ask(), ask()]
    with OUTER.attach(model) as handle:
        seen.append(logits(model, inputs))
    assert handle.last is not None
    assert torch.equal(logits(model, inputs), stock)
    assert not torch.equal(seen[0], stock)
    assert all(torch.equal(each, seen[0]) for each in seen)


def test_a_block_that_nobody_enters_says_what_to_do(tiny: Tiny) -> None:
    """A call alone attaches nothing, so full tokens would run without a word."""
    with pytest.warns(RuntimeWarning, match=r"EveryOther\(\.\.\.\)\.attach\(model\) attaches until"):
        OUTER(tiny.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with OUTER(tiny.model):
            pass
        OUTER(tiny.model)(len)


def test_a_cache_is_gone_on_with_under_another_method(tiny: Tiny, inputs: Any) -> None:
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    more = {"input_ids": torch.tensor([[12]])}
    with INNER(model):
        logits(model, inputs, past_key_values=cache)
        wanted = logits(model, more, past_key_values=cache)
        cache.crop(-1)
    with OUTER(model):
        assert torch.equal(logits(model, more, past_key_values=cache), wanted)
