"""Off means off: a method that keeps everything, and a model that was let go, are the stock model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import Tiny, build_model, image, video
from torch import Tensor, nn

from holitom import HoliTom, Method, UnsupportedUsageError

WHOLE = HoliTom(retain_ratio=1, similarity_threshold=1, inner_drop=None)
MERGING = HoliTom(retain_ratio=0.2)


def logits(model: Any, inputs: Any, method: Method | None, **settings: Any) -> list[Tensor]:
    settings = {"do_sample": False, "max_new_tokens": 5} | settings

    def run() -> list[Tensor]:
        with torch.no_grad():
            forward = model(**inputs).logits
        out = model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **settings)
        return [forward, *out.logits, out.sequences]

    if method is None:
        return run()
    with method(model):
        return run()


def check_same(got: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", [Method(retain_ratio=1), WHOLE], ids=["identity", "holitom"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_keeping_every_token_changes_no_bit(tiny_both: Tiny, method: Method, side: str) -> None:
    """Prefill and every decoding step, padded either way, several videos and an image among them."""
    model = tiny_both.model
    one = tiny_both.inputs("w1 <video> w2", videos=[video()])
    rows = tiny_both.inputs(
        "w1 <video> <image> w2",
        "<video> w3 <video>",
        "w4",
        videos=[video(seed=1), video(seed=2), video(seed=3)],
        images=[image()],
        side=side,
    )
    for inputs in (one, rows):
        check_same(logits(model, inputs, method), logits(model, inputs, None))
        check_same(
            logits(model, inputs, method, use_cache=False), logits(model, inputs, None, use_cache=False)
        )


def test_keeping_every_token_in_bfloat16(processor: Any) -> None:
    tiny = Tiny(build_model(dtype=torch.bfloat16), processor)
    inputs = tiny.inputs("w1 <video> w2", videos=[video()]).to(torch.bfloat16)
    check_same(logits(tiny.model, inputs, WHOLE), logits(tiny.model, inputs, None))


def traces(model: nn.Module) -> dict[str, Any]:
    """Everything on every module that attaching could leave behind."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if isinstance(value, dict):
                value = {k: id(v) for k, v in value.items()}
            elif not isinstance(value, (bool, int, float, str, type(None))):
                value = id(value)
            found[f"{name}.{key}"] = value
        config = getattr(module, "config", None)
        if config is not None:
            found[f"{name}: attention"] = config._attn_implementation
            found[f"{name}: config"] = config.to_dict()
    found["class"] = [type(module) for module in model.modules()]
    found["methods"] = dict(vars(type(model))), dict(vars(type(model).__mro__[1]))
    return found


@pytest.mark.parametrize("how", ["with", "handle", "error inside", "error in the forward"])
def test_detaching_leaves_nothing(tiny: Tiny, how: str) -> None:
    model = tiny.model
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    full = logits(model, inputs, None)  # transformers installs hooks of its own at first use
    before = traces(model)
    if how == "with":
        assert not torch.equal(logits(model, inputs, MERGING)[1], full[1])
    elif how == "handle":
        handle = MERGING.attach(model)
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert handle.last is not None
        assert traces(model) != before
        handle.detach()
        handle.detach()  # harmless
    elif how == "error inside":
        with pytest.raises(KeyboardInterrupt), MERGING(model):
            raise KeyboardInterrupt
    else:
        broken = dict(inputs) | {"attention_mask": torch.ones(1, 1, 3, 3)}
        with pytest.raises(UnsupportedUsageError), MERGING(model):
            model(**broken)
    assert traces(model) == before
    check_same(logits(model, inputs, None), full)


def test_an_error_in_one_forward_does_not_harm_the_next(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    wanted = logits(tiny.model, inputs, MERGING)
    with MERGING(tiny.model), torch.no_grad():
        with pytest.raises(UnsupportedUsageError):
            tiny.model(**dict(inputs) | {"attention_mask": torch.ones(1, 1, 3, 3)})
        assert torch.equal(tiny.model(**inputs).logits, wanted[0])


def test_two_models_two_methods(tiny: Tiny, processor: Any) -> None:
    other = Tiny(build_model("eager"), processor)
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    few, many = HoliTom(retain_ratio=0.1), HoliTom(retain_ratio=0.5)
    wanted = [logits(tiny.model, inputs, few), logits(other.model, inputs, many)]
    with few(tiny.model) as one, many(other.model) as two:
        both = [logits(tiny.model, inputs, None), logits(other.model, inputs, None)]
    for got, own in zip(both, wanted, strict=True):
        check_same(got, own)
    assert one.last is not None
    assert two.last is not None
    assert one.last.videos[0].sent < two.last.videos[0].sent


def test_one_method_at_a_time(tiny: Tiny) -> None:
    with MERGING(tiny.model):
        with pytest.raises(UnsupportedUsageError, match="attached to this model already"):
            MERGING.attach(tiny.model)
        inputs = tiny.inputs("w1 <video> w2", videos=[video()])
        tiny.model.generate(**inputs, max_new_tokens=1)
    MERGING.attach(tiny.model).detach()
