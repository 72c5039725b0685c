"""Every family on a device that is not the CPU: the answers are the host's, and few values cross over.

What the answers on the host are held against is in tests/families.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from support.families import FAMILIES, Small, small
from support.families.uses import STEPS, generated
from support.methods import EveryOther
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from holitom import HoliTom, Method
from holitom.bench.second_device import SecondDevice
from holitom.methods import METHODS, get_method

pytestmark = pytest.mark.device

KINDS: dict[str, Method] = {
    "outer": EveryOther(),
    "holitom": HoliTom(retain_ratio=0.4, similarity_threshold=0.8),
    "fastv": get_method("fastv", retain_ratio=0.5),
}
# One for each kind of tower, placeholder and position; `make test-device` runs the others too.
SAMPLE = ("llava-onevision", "internvl", "smolvlm2", "qwen2.5-vl", "qwen3-vl", "videollama3", "glm-4.1v")
# transformers runs experts by another implementation on a device other than the CPU.
MIXTURES = ("internvl-moe", "qwen3-vl-moe", "qwen3.5-moe", "glm-4.5v", "qwen3-omni")
METHODS_ON = ("llava-onevision", "qwen2.5-vl", "qwen3-vl", "videollama3", "minicpm-v-4.6")


def named(names: Iterable[str], fast: Iterable[str]) -> pytest.MarkDecorator:
    """Parameters `names`, all but those in `fast` marked slow."""
    marked = [pytest.param(name, marks=[pytest.mark.slow] * (name not in fast)) for name in names]
    return pytest.mark.parametrize("name", marked)


each_family = pytest.mark.parametrize("name", FAMILIES)
sample = named(FAMILIES, SAMPLE)
each_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def on_device(name: str) -> Any:
    with SecondDevice() as device:
        return device.model(small(name).model)


def check_same_on_the_device(one: Small, name: str, inputs: Any, method: Method, **settings: Any) -> None:
    """Ids and logits are the host's."""
    settings["suppress_tokens"] = one.unspoken
    wanted = generated(one.model, inputs, method, **settings)
    with SecondDevice() as device:
        got = generated(on_device(name), device.inputs(inputs), method, **settings)
        assert got.sequences.device == device.device
        check_same(name, got, wanted)


def check_same(name: str, got: Any, wanted: Any) -> None:
    """Equal to the bit, for the device computes with the host's kernels; mixtures of experts to rounding."""
    assert torch.equal(got.sequences.cpu(), wanted.sequences)
    if wanted.logits is not None:
        allowed = small(name).family.close if name in MIXTURES else {"atol": 0, "rtol": 0}
        assert_close(torch.stack(got.logits).cpu(), torch.stack(wanted.logits), **allowed)


@each_family
@each_kind
def test_one_row(name: str, kind: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    check_same_on_the_device(one, name, inputs, KINDS[kind])


@sample
@each_kind
def test_a_batch(name: str, kind: str) -> None:
    """Videos of two sizes and lengths, two in one row, none in another."""
    one = small(name)
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6", "w11 w12", "w5 <video> w6 <video> w7"]
    videos = [one.video(), one.video(1, kind=1), one.video(2), one.video(3, kind=1)]
    check_same_on_the_device(one, name, one.inputs(*prompts, videos=videos), KINDS[kind])


@sample
@each_kind
def test_beams(name: str, kind: str) -> None:
    one = small(name)
    if not one.family.beams:
        pytest.skip("the stock model fails with beams and videos")
    inputs = one.inputs("w1 <video> w2", "<video> w9 w8", videos=[one.video(), one.video(1, kind=1)])
    settings = {"num_beams": 2, "num_return_sequences": 2, "output_logits": False}
    check_same_on_the_device(one, name, inputs, KINDS[kind], **settings)


@sample
@each_kind
def test_a_second_turn(name: str, kind: str) -> None:
    """A second question over the cache of the first, padded on the right, so that rows are packed anew."""
    one, method = small(name), KINDS[kind]
    videos = [one.video(), one.video(1, kind=1)]
    first = one.inputs("w1 <video> w2", "<video> w9 w8 w7 w6", videos=videos)
    wanted = second_answer(one, one.model, first, method)
    with SecondDevice() as device:
        got = second_answer(one, on_device(name), device.inputs(first), method)
        check_same(name, got, wanted)


def second_answer(one: Small, model: Any, first: Any, method: Method) -> Any:
    cache = DynamicCache(config=model.config.get_text_config())
    settings = {"past_key_values": cache, "suppress_tokens": one.unspoken}
    with method(model):
        answer = generated(model, first, None, **settings).sequences
        return generated(model, asked_again(answer, first["attention_mask"]), None, **settings)


def asked_again(answer: Tensor, mask: Tensor) -> dict[str, Tensor]:
    question = torch.tensor([[12, 13, 14]] * len(answer), device=answer.device)
    more = torch.ones(len(answer), STEPS + question.shape[1], dtype=mask.dtype, device=mask.device)
    return {
        "input_ids": torch.cat([answer, question], dim=1),
        "attention_mask": torch.cat([mask, more], dim=1),
    }


@named(FAMILIES, ("internvl", "qwen2.5-vl", "videollama3"))
def test_where_the_device_is_the_default_one(name: str) -> None:
    """Scripts set `torch.set_default_device`; indices that are made on the host stay there."""
    one, method = small(name), KINDS["holitom"]
    inputs = one.inputs("w1 <video> w2", "<video> w9 w8", videos=[one.video(), one.video(1, kind=1)])
    wanted = generated(one.model, inputs, method, suppress_tokens=one.unspoken)
    with SecondDevice() as device:
        model, given = on_device(name), device.inputs(inputs)
        with device.device:
            got = generated(model, given, method, suppress_tokens=one.unspoken)
        check_same(name, got, wanted)


@named(METHODS_ON, METHODS_ON[:2])
@pytest.mark.parametrize("label", METHODS)
def test_every_method(name: str, label: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    check_same_on_the_device(one, name, inputs, get_method(label, retain_ratio=0.5))
