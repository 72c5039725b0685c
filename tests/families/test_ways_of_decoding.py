"""Every way in which `generate` runs a prompt gives the answer of the plain one, with a method attached too.

Where nothing merges, it is the stock model's, bit for bit, errors included.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from support.families import FAMILIES, Small, small
from support.methods import EveryOther
from torch import Tensor

from holitom import HoliTom, Method, UnsupportedUsageError
from holitom.models import adapter_for

KINDS = ("llava-onevision", "qwen2.5-vl", "qwen3.5", "internvl", "videollama3")  # one of each kind
OUTER, INNER = EveryOther(), EveryOther(layers=(2, 3))
each_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in KINDS)) for name in FAMILIES]
)
# Of transformers' classes GLM's look for a video under another embedding than its frames' in the prompt, and
# HyperCLOVA X's `generate` takes no embeddings.
EMBEDDED_IN_NONE = ("glm-4.1v", "glm-4.5v", "glm-4.6v", "glm-ocr")
EMBEDDED_IN_FORWARD = ("hyperclova-x",)
WAYS: dict[str, dict[str, Any]] = {
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "assisted": {"assistant_model": None},  # by the model itself
    "chunks": {"prefill_chunk_size": 7},
}


def settings(one: Small, way: str = "") -> dict[str, Any]:
    given = dict(WAYS.get(way, {}))
    if "assistant_model" in given:
        given["assistant_model"] = one.model
    return {"max_new_tokens": 7, "do_sample": False, "suppress_tokens": one.unspoken, **given}


def answer(one: Small, inputs: Any, method: Method | None, way: str = "", **more: Any) -> Tensor:
    """What is generated; with `method` attached."""
    arguments = {**settings(one, way), **more}
    if method is None:
        return one.model.generate(**inputs, **arguments)  # type: ignore[no-any-return]
    with method(one.model):
        return one.model.generate(**inputs, **arguments)  # type: ignore[no-any-return]


def same_or_same_error(one: Small, inputs: Any, method: Method, way: str) -> None:
    """What the stock model does, and what it does with a method attached, are the same."""
    try:
        wanted = answer(one, inputs, None, way)
    except Exception as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            answer(one, inputs, method, way)
    else:
        assert torch.equal(answer(one, inputs, method, way), wanted)


@each_family
def test_a_merged_prompt_is_answered_alike(name: str) -> None:
    one = small(name)
    # Words that come again are what prompt lookup guesses by.
    inputs = one.inputs("w1 <video> w2 w3 w2 w3 w2 w3", videos=[one.video()])
    for method in (OUTER, INNER):
        wanted = answer(one, inputs, method)
        for way in WAYS:
            if way != "chunks" and not all(
                map(adapter_for(one.model).attends, range(len(adapter_for(one.model).layers)))
            ):
                same_or_same_error(one, inputs, method, way)  # a state cannot be wound back
            else:
                assert torch.equal(answer(one, inputs, method, way), wanted), (method, way)


@each_family
def test_text_and_images_are_the_stock_model_s(name: str) -> None:
    one = small(name)
    prompts = [one.inputs("w1 w2 w3 w2 w3")]
    if one.family.images:
        prompts.append(one.inputs("w1 <image> w2 w3 <image> w2", images=[one.image(), one.image(1)]))
    for inputs in prompts:
        for way in WAYS:
            same_or_same_error(one, inputs, INNER, way)


def embedded_prompt(one: Small) -> tuple[Any, Any]:
    """A prompt with a video, by its ids and by their embeddings."""
    inputs = one.inputs("w1 <video> w2 w3 w4", videos=[one.video()])
    embedded = {key: value for key, value in inputs.items() if key != "input_ids"}
    embedded["inputs_embeds"] = one.model.get_input_embeddings()(inputs["input_ids"])
    return inputs, embedded


@each_family
@torch.no_grad()
def test_a_prompt_that_comes_as_embeddings(name: str) -> None:
    """Placeholders are found by their embedding, as the stock model finds them."""
    one = small(name)
    adapter = adapter_for(one.model)
    inputs, embedded = embedded_prompt(one)
    if name in EMBEDDED_IN_NONE:
        with pytest.raises(ValueError, match="do not match, tokens: 0,"):
            one.model(**embedded)
        same_or_same_error(one, embedded, INNER, "")
        return
    full = one.model(**embedded).logits
    with Method(1.0)(one.model):
        assert torch.equal(one.model(**embedded).logits, full)
    with INNER(one.model) as run:
        merged = one.model(**embedded).logits[:, -1]
        assert run.last is not None
        assert 0 < run.last.videos[0].sent < run.last.videos[0].tokens
        if not adapter.keeps_positions:  # else the stock model makes other positions without ids
            assert torch.equal(merged, one.model(**inputs).logits[:, -1])
    assert not torch.allclose(merged, full[:, -1], atol=1e-2)
    if name in EMBEDDED_IN_FORWARD:
        with pytest.raises(ValueError, match="doesn't have its forwarding implemented"):
            answer(one, embedded, None)
        same_or_same_error(one, embedded, INNER, "")
    elif not adapter.keeps_positions:
        wanted = answer(one, inputs, INNER)[:, inputs["input_ids"].shape[1] :]
        assert torch.equal(answer(one, embedded, INNER), wanted)


@each_family
@torch.no_grad()
def test_placeholders_without_their_videos_are_what_the_stock_model_makes_of_them(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    same_or_same_error(one, text, INNER, "")
    embedded = {"inputs_embeds": one.model.get_input_embeddings()(text["input_ids"])}
    same_or_same_error(one, embedded, INNER, "")


@pytest.mark.parametrize("method", [OUTER, INNER, HoliTom(0.4)], ids=["outer", "inner", "holitom"])
def test_candidates_are_checked_in_one_forward(method: Method) -> None:
    """What is merged does not hang on the guesses that come with the prompt."""
    one = small("llava-onevision")
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    guesser = small("llava-video").model  # of other weights: its guesses are wrong
    wanted = answer(one, inputs, method)
    widths: list[int] = []
    with method(one.model) as run:
        hook = one.model.model.language_model.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs: widths.append((args or (kwargs["hidden_states"],))[0].shape[1]),
            with_kwargs=True,
        )
        with hook:
            got = one.model.generate(**inputs, **settings(one) | {"assistant_model": guesser})
        assert run.last is not None
        assert widths[0] < inputs["input_ids"].shape[1]  # what is left, and the first guesses
    assert torch.equal(got, wanted)
    assert max(widths[1:]) > 1


def test_what_ranked_cannot_be_cropped() -> None:
    """The remaining tokens depend on the question, so a cache is not cropped to before it."""
    one = small("llava-onevision")
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    for method, asked in ((OUTER, False), (INNER, True)):
        with method(one.model), torch.no_grad():
            cache = one.model(**inputs, use_cache=True).past_key_values
            if asked:
                with pytest.raises(UnsupportedUsageError, match="the question that ranked"):
                    cache.crop(-1)
            else:
                cache.crop(-1)
            cache.crop(0)


def test_chunks_are_asked_for_in_any_form() -> None:
    one = small("llava-onevision")
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    wanted = answer(one, inputs, INNER)
    config = one.model.generation_config
    from transformers import GenerationConfig

    own = GenerationConfig(prefill_chunk_size=5, eos_token_id=None, pad_token_id=0, **settings(one))
    with INNER(one.model):
        assert torch.equal(one.model.generate(**inputs, generation_config=own), wanted)
        assert own.prefill_chunk_size == 5
        config.prefill_chunk_size = 5
        try:
            assert torch.equal(one.model.generate(**inputs, **settings(one)), wanted)
        finally:
            config.prefill_chunk_size = None
