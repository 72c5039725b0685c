"""State of a call belongs to the call: threads, nested forwards and interleaved turns do not meet."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from support.families import FAMILIES, small
from support.tiny import Tiny, video
from transformers import DynamicCache

from holitom import HoliTom, Method
from holitom.methods import get_method

THREADS = 4
DIFFERENT = ("smolvlm2", "qwen3-vl")  # towers and language models unlike LLaVA-OneVision's
METHODS = {
    "outer": HoliTom(retain_ratio=0.25, inner_drop=None),
    "inner": HoliTom(retain_ratio=0.25, inner_layer=2),
    "fastv": get_method("fastv", retain_ratio=0.4),
    "visionzip": get_method("visionzip", retain_ratio=0.25),
}


def answer(model: Any, inputs: Any) -> list[list[float]]:
    made = model.generate(
        **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return [logits[0].tolist() for logits in made.logits]


def in_threads(run: Any, model: Any, requests: list[Any]) -> list[tuple[list[list[float]], int]]:
    """Each request in a thread of its own, all begun at once: answer, and what the thread reads in `last`."""
    barrier = Barrier(len(requests))

    def ask(inputs: Any) -> tuple[list[list[float]], int]:
        barrier.wait()
        answers = [answer(model, inputs) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        return answers[0], run.last.videos[0].sent

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


@pytest.mark.parametrize("name", METHODS)
def test_each_thread_gets_its_own_answer_and_report(tiny: Tiny, name: str) -> None:
    requests = [
        tiny.inputs(f"w{i} <video> w{i + 1}", videos=[video(frames=3 + i, seed=i)]) for i in range(THREADS)
    ]
    with METHODS[name](tiny.model) as run:
        alone = []
        for inputs in requests:
            alone.append((answer(tiny.model, inputs), run.last.videos[0].sent))  # type: ignore[union-attr]
        assert in_threads(run, tiny.model, requests) == alone


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in DIFFERENT)) for name in FAMILIES],
)
def test_threads_of_every_family(family: str) -> None:
    """A video each; the method that keeps every token says that the stock model is right in threads."""
    live = small(family)
    requests = [live.inputs("w1 <video> w2", videos=[live.video(seed=i)]) for i in range(THREADS)]
    model = live.model
    for method in (Method(1.0), METHODS["outer"], METHODS["fastv"]):
        with method(model) as run:
            alone = []
            for inputs in requests:
                alone.append((answer(model, inputs), run.last.videos[0].sent))  # type: ignore[union-attr]
            assert in_threads(run, model, requests) == alone


def test_a_thread_without_a_call_reads_the_latest_report(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with METHODS["inner"](tiny.model) as run:
        assert run.last is None
        asyncio.run(asyncio.to_thread(tiny.model.generate, **inputs, max_new_tokens=1))
        assert run.last is not None


def test_a_forward_inside_a_forward(tiny: Tiny) -> None:
    """A hook asks the same model about another video while a forward is under way."""
    outer = tiny.inputs("w1 <video> w2", videos=[video(seed=1)])
    nested = tiny.inputs("w5 <video> w6 w7", videos=[video(frames=6, seed=2)])
    model, seen = tiny.model, []
    with METHODS["inner"](model), torch.no_grad():
        wanted = model(**outer).logits, model(**nested).logits

        def ask(*_: Any) -> None:
            if not seen:
                seen.append(None)
                seen[0] = model(**nested).logits

        for layer in (1, 3):
            seen.clear()
            hook = model.model.language_model.layers[layer].register_forward_pre_hook(ask)
            try:
                assert torch.equal(model(**outer).logits, wanted[0])
            finally:
                hook.remove()
            assert torch.equal(seen[0], wanted[1])


def test_the_language_model_called_inside_a_forward(tiny: Tiny) -> None:
    """Text through the language model itself, from a hook, is the stock model's."""
    inputs = tiny.inputs("w1 <video> w2", videos=[video(seed=1)])
    language, seen = tiny.model.model.language_model, []
    text = torch.tensor([[8, 9, 10]])
    with torch.no_grad():
        stock = language(input_ids=text).last_hidden_state
        with METHODS["inner"](tiny.model):
            wanted = tiny.model(**inputs).logits

            def ask(*_: Any) -> None:
                if not seen:
                    seen.append(None)
                    seen[0] = language(input_ids=text).last_hidden_state

            hook = language.layers[2].register_forward_pre_hook(ask)
            try:
                assert torch.equal(tiny.model(**inputs).logits, wanted)
            finally:
                hook.remove()
    assert torch.equal(seen[0], stock)


def test_two_conversations_by_turns(tiny: Tiny) -> None:
    """Steps of two caches, one after the other, go on as each would alone; each report counts its own."""
    model = tiny.model
    requests = [tiny.inputs("w1 <video> w2", videos=[video(frames=3 + i, seed=i)]) for i in range(2)]
    with METHODS["inner"](model) as run, torch.no_grad():
        alone, reports = [], []
        for inputs in requests:
            alone.append(model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, -4:].tolist())
        caches = [DynamicCache(config=model.config) for _ in requests]
        said: list[list[int]] = [[], []]
        for step in range(4):
            for index, inputs in enumerate(requests):
                given = dict(inputs) if step == 0 else {"input_ids": torch.tensor([said[index][-1:]])}
                out = model(**given, past_key_values=caches[index])
                if step == 0:
                    reports.append(run.last)
                said[index].append(int(out.logits[0, -1].argmax()))
    assert said == alone
    first, second = (report.kv_bytes for report in reports)  # type: ignore[union-attr]
    assert [first, second] == [sum(x.keys.nbytes + x.values.nbytes for x in c.layers) for c in caches]


def test_interrupted_forwards_hold_no_memory(tiny: Tiny) -> None:
    """No hook runs at the end of such a forward, so the next one takes off what it has left."""
    language = tiny.model.model.language_model
    seen: list[weakref.ref[Any]] = []

    def interrupt(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(weakref.ref(kwargs["inputs_embeds"]))
        raise KeyboardInterrupt

    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with METHODS["inner"](tiny.model), torch.no_grad():
        wanted = tiny.model(**inputs).logits
        with language.register_forward_pre_hook(interrupt, with_kwargs=True):
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt):
                    tiny.model(**inputs)
        assert torch.equal(tiny.model(**inputs).logits, wanted)
        gc.collect()
        assert len(seen) == 3
        assert not any(each() is not None for each in seen)


def test_a_nested_forward_that_is_cut_short(tiny: Tiny) -> None:
    """A hook ends a forward of its own early, by what is no `Exception`; the outer one goes on as ever."""

    class Enough(BaseException):
        pass

    def enough(*_: Any) -> None:
        raise Enough

    outer = tiny.inputs("w1 <video> w2", videos=[video(seed=1)])
    nested = tiny.inputs("w5 <video> w6 w7", videos=[video(frames=6, seed=2)])
    model, layers = tiny.model, tiny.model.model.language_model.layers
    with METHODS["inner"](model), torch.no_grad():
        wanted = model(**outer).logits
        asked = []

        def ask(*_: Any) -> None:
            if not asked:
                asked.append(True)
                with layers[3].register_forward_pre_hook(enough), pytest.raises(Enough):
                    model(**nested)

        for layer in (0, 2):
            asked.clear()
            with layers[layer].register_forward_pre_hook(ask, prepend=True):
                assert torch.equal(model(**outer).logits, wanted)


def test_an_interrupt_leaves_nothing_behind(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with METHODS["inner"](tiny.model):
        wanted = answer(tiny.model, inputs)
        hook = tiny.model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.model.generate(**inputs, max_new_tokens=2)
        hook.remove()
        assert answer(tiny.model, inputs) == wanted
