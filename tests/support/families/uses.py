"""What people do with a model, each done with a method attached and held against the family's own layers.

Every use takes a family's name, a method and the attention implementation under test. It fails where a row is
not what it would be alone, and where what is left does not stand at the positions of the unmerged model: both
are in `reference_logits`, which runs each row alone, at those positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from holitom import Method
from holitom.models import adapter_for
from support.families import Small, small
from support.reference import extended, reference_logits

STEPS = 3
QUESTION = [12, 13, 14]


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


def check_row(
    one: Small, name: str, out: Any, row: int, prompt: int, alone: Any, method: Method, **more: Any
) -> None:
    """Row `row` of what was generated behind `prompt` columns is the reference's for `alone`."""
    answer = out.sequences[row, prompt:].tolist()
    wanted = reference_logits(one.model, alone, method, answer[:-1], **more)
    assert_close(torch.stack(out.logits)[:, row], wanted[-len(answer) :], **one.family.close)


def run(name: str, inputs: Any, alone: list[Any], method: Method, attention: str = "sdpa", **kw: Any) -> None:
    one = small(name, attention)
    out = generated(one.model, inputs, method, suppress_tokens=one.unspoken, **kw)
    for row, own in enumerate(alone):
        check_row(one, name, out, row, inputs["input_ids"].shape[1], own, method)


def one_row(name: str, method: Method, attention: str = "sdpa") -> None:
    one = small(name, attention)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    run(name, inputs, [inputs], method, attention)


def batch(name: str, method: Method, attention: str = "sdpa", side: str = "left", **kw: Any) -> None:
    """Videos of two sizes and lengths, two in one row, none in another."""
    one = small(name, attention)
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6", "w11 w12", "w5 <video> w6 <video> w7"]
    videos = [one.video(), one.video(1, kind=1), one.video(2), one.video(3, kind=1)]
    own = [videos[:1], videos[1:2], None, videos[2:]]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    alone = [one.inputs(prompt, videos=its) for prompt, its in zip(prompts, own, strict=True)]
    run(name, inputs, alone, method, attention, **kw)


def without_a_cache(name: str, method: Method, attention: str = "sdpa") -> None:
    one = small(name, attention)
    videos = [one.video(), one.video(1, kind=1)]
    prompts = ["w1 <video> w2", "<video> w9 w8 w7 w6"]
    inputs = one.inputs(*prompts, videos=videos, side="right")
    alone = [one.inputs(prompt, videos=[its]) for prompt, its in zip(prompts, videos, strict=True)]
    run(name, inputs, alone, method, attention, use_cache=False)


def images(name: str, method: Method, attention: str = "sdpa") -> None:
    """They stay whole."""
    one = small(name, attention)
    if not one.family.images:
        pytest.skip("the stock model takes no images beside a video")
    inputs = one.inputs(
        "w1 <image> w2 <video> w3 <image> w4", videos=[one.video()], images=[one.image(), one.image(1)]
    )
    run(name, inputs, [inputs], method, attention)


def beams(name: str, method: Method, attention: str = "sdpa") -> None:
    """They are those of each row alone, and those without a cache."""
    one = small(name, attention)
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


def asked_twice(one: Small, inputs: Any, method: Method | None) -> Any:
    """What is generated for a second question over the cache of the first."""
    text = {"suppress_tokens": one.unspoken}
    cache = DynamicCache(config=one.model.config.get_text_config())
    handle = None if method is None else method.attach(one.model)
    try:
        first = generated(one.model, inputs, None, past_key_values=cache, **text)
        assert cache.get_seq_length() == first.sequences.shape[1] - 1
        longer = extended(inputs, [0] * (STEPS + len(QUESTION)))
        again = torch.tensor([QUESTION] * len(first.sequences))
        longer["input_ids"] = torch.cat([first.sequences, again], dim=1)
        only_text = {name: longer[name] for name in ("input_ids", "attention_mask")}
        return generated(one.model, only_text, None, past_key_values=cache, **text)
    finally:
        if handle is not None:
            handle.detach()


def second_question(name: str, method: Method, attention: str = "sdpa", side: str = "left") -> None:
    one = small(name, attention)
    prompts = ["w1 <video> w2", "<video> w9 w8 w7 w6"]
    videos = [one.video(), one.video(1, kind=1)]
    inputs = one.inputs(*prompts, videos=videos, side=side)
    out = asked_twice(one, inputs, method)
    for row, (prompt, its) in enumerate(zip(prompts, videos, strict=True)):
        alone = one.inputs(prompt, videos=[its])
        answer = out.sequences[row, inputs["input_ids"].shape[1] :].tolist()
        wanted = reference_logits(one.model, alone, method, answer[:-1])
        assert_close(torch.stack(out.logits)[:, row], wanted[-STEPS:], **one.family.close)


def second_video(name: str, method: Method, attention: str = "sdpa") -> None:
    """The caller sends the whole conversation, with the features of the new video alone."""
    one = small(name, attention)
    if not one.family.later_videos:
        pytest.skip("the stock model numbers a video over a cache as text")
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
    check_row(one, name, out, 0, turns[1], both, method, turns=turns)


def bfloat16(name: str, method: Method, attention: str = "sdpa") -> None:
    """Rounding depends on a row's neighbours; how much, the stock model says."""
    one = small(name, attention, torch.bfloat16)
    videos = [one.video(), one.video(1, kind=1)]
    inputs = one.inputs("w1 <video> w2 w3", "<video> w4", videos=videos)
    alone = one.inputs("<video> w4", videos=videos[1:])

    def both(method: Method | None) -> tuple[Tensor, Tensor]:
        out, own = (generated(one.model, each, method, max_new_tokens=1) for each in (inputs, alone))
        assert out.logits[0].isfinite().all()
        return out.logits[0][1], own.logits[0][0]

    beside, by_itself = both(None)
    spread = float((beside - by_itself).abs().max())
    assert_close(*both(method), atol=0.3 + spread, rtol=0.1)


def batch_on_the_right(name: str, method: Method, attention: str = "sdpa") -> None:
    batch(name, method, attention, "right")


def second_question_on_the_right(name: str, method: Method, attention: str = "sdpa") -> None:
    second_question(name, method, attention, "right")


Use = Callable[[str, Method, str], None]
USES: dict[str, Use] = {
    "one row": one_row,
    "batch": batch,
    "batch on the right": batch_on_the_right,
    "no cache": without_a_cache,
    "images": images,
    "beams": beams,
    "second question": second_question,
    "second question on the right": second_question_on_the_right,
    "second video": second_video,
    "bfloat16": bfloat16,
}
