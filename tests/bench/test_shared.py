"""One run of the vision tower for every method gives each what it gets alone."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.families import small
from support.tiny import Tiny, video

from holitom import HoliTom, Method
from holitom.bench.shared import encode_once
from holitom.errors import UnsupportedUsageError
from holitom.methods import METHODS, VidCom2, get_method

CHOSEN: dict[str, Method | None] = {
    "full tokens": None,
    **{name: get_method(name, retain_ratio=0.5) for name in METHODS},
    "vidcom2 with holitom's inner stage": VidCom2(0.5).with_inner(HoliTom()),
}
NEEDED = [method for method in CHOSEN.values() if method]


def answer(
    model: Any, method: Method | None, inputs: dict[str, Any], shared: Any = None, **settings: Any
) -> Any:
    with method(model) if method else nullcontext() as run:
        if shared is not None:
            inputs = {**inputs, **shared[0].ask(run, shared[1])}
        out = model.generate(
            **inputs,
            max_new_tokens=3,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
            **settings,
        )
        return torch.stack(out.logits), out.sequences, run.last if run else None


def text_of(inputs: Any) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "pixel_values_videos"}


@pytest.fixture(scope="module")
def videos() -> list[Any]:
    return [video(8, seed=seed) for seed in range(2)]


@pytest.mark.parametrize("label", CHOSEN)
def test_every_method_answers_bit_for_bit_as_alone(tiny: Tiny, videos: list[Any], label: str) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3", "<video> w9 w8 w7 w6", videos=videos)
    shared = encode_once(tiny.model, inputs, NEEDED)
    for other in ("holitom", label, label):  # whoever used it before changes nothing
        logits, ids, report = answer(tiny.model, CHOSEN[other], text_of(inputs), (shared, [0, 1]))
    alone, alone_ids, alone_report = answer(tiny.model, CHOSEN[label], inputs)
    assert torch.equal(logits, alone)
    assert torch.equal(ids, alone_ids)
    if report is not None:
        assert [v.stages for v in report.videos] == [v.stages for v in alone_report.videos]
        assert [v.sent for v in report.videos] == [v.sent for v in alone_report.videos]


@pytest.mark.parametrize("label", ["full tokens", "holitom", "fastv"])
def test_rows_that_ask_about_one_video_share_it(tiny: Tiny, videos: list[Any], label: str) -> None:
    prompts = ["w1 <video> w2 w3", "<video> w9 w8", "w5 w6 <video> w7"]
    own = [0, 0, 1]
    inputs = tiny.inputs(*prompts, videos=[videos[row] for row in own])
    shared = encode_once(tiny.model, tiny.inputs("<video> <video>", videos=videos), NEEDED)
    logits, ids, report = answer(tiny.model, CHOSEN[label], text_of(inputs), (shared, own))
    alone, alone_ids, _ = answer(tiny.model, CHOSEN[label], inputs)
    torch.testing.assert_close(logits, alone, atol=2e-4, rtol=1e-4)
    assert torch.equal(ids, alone_ids)
    if report is not None:
        assert [v.row for v in report.videos] == [0, 1, 2]


@pytest.mark.parametrize("settings", [{"use_cache": False}, {"num_beams": 2}], ids=str)
def test_without_a_cache_and_with_beams(tiny: Tiny, videos: list[Any], settings: dict[str, Any]) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3", "<video> w9 w8 w7 w6", videos=videos)
    shared = encode_once(tiny.model, inputs, NEEDED)
    for _ in range(2):
        _, ids, _ = answer(tiny.model, HoliTom(0.5), text_of(inputs), (shared, [0, 1]), **settings)
        assert torch.equal(ids, answer(tiny.model, HoliTom(0.5), inputs, **settings)[1])


def test_deepstack_goes_with_its_video() -> None:
    """Two rows of Qwen3-VL ask about the second of two videos, and get what it gets alone."""
    qwen = small("qwen3-vl")
    videos = [qwen.video(seed) for seed in (0, 1)]
    prompts = ["w1 <video> w2 w3", "<video> w9 w8"]
    rows = qwen.inputs(*prompts, videos=[videos[1], videos[1]])
    shared = encode_once(qwen.model, qwen.inputs(*prompts, videos=videos), [HoliTom(0.5)])
    assert len(shared.deep) == 3
    for method in (None, HoliTom(0.5)):
        logits, ids, _ = answer(qwen.model, method, text_of(rows), (shared, [1, 1]))
        alone, alone_ids, _ = answer(qwen.model, method, rows)
        torch.testing.assert_close(logits, alone, atol=2e-4, rtol=1e-4)
        assert torch.equal(ids, alone_ids)


def test_only_what_a_method_needs_is_read(tiny: Tiny, videos: list[Any]) -> None:
    inputs = tiny.inputs("<video>", videos=videos[:1])
    plain = encode_once(tiny.model, inputs, [VidCom2(0.5)]).encoded.encodings[0]
    assert plain.keys is None
    assert not plain.importance.any()
    full = encode_once(tiny.model, inputs, NEEDED).encoded.encodings[0]
    assert full.keys is not None
    assert full.importance.all()


def test_another_run_s_videos_are_refused(tiny: Tiny, videos: list[Any]) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=videos[:1])
    shared = encode_once(tiny.model, inputs, NEEDED)
    with HoliTom(0.5)(tiny.model) as before:
        pass
    with HoliTom(0.5)(tiny.model), pytest.raises(UnsupportedUsageError, match="before this method"):
        tiny.model.generate(**text_of(inputs), **shared.ask(before, [0]), max_new_tokens=1)
    with HoliTom(0.5)(tiny.model), pytest.raises(UnsupportedUsageError, match="attached"):
        encode_once(tiny.model, inputs, NEEDED)
