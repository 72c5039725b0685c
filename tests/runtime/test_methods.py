"""Every method through attach and `generate` on a live model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.methods import EveryOther
from support.reference import reference_logits
from support.tiny import Tiny, video
from torch.testing import assert_close

from holitom import HoliTom, Method
from holitom.methods import METHODS, VidCom2, get_method
from holitom.runtime.inner import by_attention, first_of_each

CHOSEN: dict[str, Method] = {
    **{name: get_method(name, retain_ratio=0.5) for name in METHODS},
    "own attention after an outer stage": VidCom2(0.5).with_inner(get_method("pdrop", stage_keep=0.5)),
    "vidcom2 with holitom's inner stage": VidCom2(0.5).with_inner(HoliTom()),
    "two stages that read the text": EveryOther(layers=(1, 3), text=True),
    "a stage that reads the text, ranked by its own layer": EveryOther(
        layers=(2,), own_attention=True, text=True
    ),
}
STEPS = 4


def generated(model: Any, inputs: Any, method: Method, **settings: Any) -> Any:
    with method(model):
        return model.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
            **settings,
        )


@pytest.mark.parametrize("label", CHOSEN)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_of_a_padded_batch_is_the_row_alone(tiny: Tiny, label: str, side: str) -> None:
    method = CHOSEN[label]
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6 w5 w4", "w5 w6 <video> w7 <video>"]
    videos = [video(8, seed=seed) for seed in range(4)]
    own = [videos[:1], videos[1:2], videos[2:]]
    inputs = tiny.inputs(*prompts, videos=videos, side=side)
    out = generated(tiny.model, inputs, method)
    answers = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    for row, (prompt, its) in enumerate(zip(prompts, own, strict=True)):
        alone = tiny.inputs(prompt, videos=its)
        wanted = reference_logits(tiny.model, alone, method, answers[row][:-1])
        assert_close(torch.stack(out.logits)[:, row], wanted, atol=2e-4, rtol=1e-4)


INSIDE = [name for name in METHODS if get_method(name).inner(4)]


@pytest.mark.parametrize("label", INSIDE)
@pytest.mark.parametrize("frames", [1, 3])
def test_something_of_each_video_stays(tiny: Tiny, label: str, frames: int) -> None:
    """Of a few tokens in a row one could stay, of one video, or a separator."""
    inputs = tiny.inputs(
        "w1 <video> w2 <video> w3 <video>", "w4 <video>", videos=[video(frames, seed=s) for s in range(4)]
    )
    for ratio in (0.01, 0.1):
        share = {"stage_keep": ratio} if label == "pdrop" else {"retain_ratio": ratio}
        with get_method(label, **share)(tiny.model) as run, torch.no_grad():
            logits = tiny.model(**inputs).logits[:, -1]
        assert logits.isfinite().all()
        assert run.last is not None
        assert [one.row for one in run.last.videos] == [0, 0, 0, 1]
        for one in run.last.videos:
            assert all(one.staying(layer) >= 1 for layer in one.inner)


@settings(deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.1, 0.5, float("nan")]), min_size=1, max_size=12),
    count=st.integers(1, 4),
    data=st.data(),
)
def test_the_foremost_token_of_each_video(scores: list[float], count: int, data: st.DataObject) -> None:
    videos = data.draw(st.lists(st.integers(-1, count - 1), min_size=len(scores), max_size=len(scores)))
    order = by_attention(torch.tensor(scores))
    found = first_of_each(order, torch.tensor(videos), count).nonzero()[:, 0].tolist()
    wanted = []
    for one in range(count):
        own = [
            (scores[at] if scores[at] == scores[at] else -1, -at) for at, v in enumerate(videos) if v == one
        ]
        wanted += [-max(own)[1]] if own else []
    assert found == sorted(wanted)


@pytest.mark.parametrize("label", METHODS)
def test_autocast(tiny: Tiny, label: str) -> None:
    """Merging computes in the precision of what it is given, so it sends what it sends without autocast."""
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    with get_method(label, retain_ratio=0.5)(tiny.model) as run, torch.autocast("cpu", torch.bfloat16):
        ids = tiny.model.generate(**inputs, max_new_tokens=2, num_beams=2)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 2
    assert run.last is not None
    assert 1 <= run.last.videos[0].remaining <= run.last.videos[0].tokens


@pytest.mark.parametrize("label", CHOSEN)
def test_without_a_cache_the_answer_is_the_same(tiny: Tiny, label: str) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video(8)])
    cached = generated(tiny.model, inputs, CHOSEN[label])
    plain = generated(tiny.model, inputs, CHOSEN[label], use_cache=False)
    assert torch.equal(cached.sequences, plain.sequences)
    assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=2e-4, rtol=1e-4)


def test_a_layers_own_attention_sees_earlier_turns(tiny: Tiny) -> None:
    """A second turn with a video of its own, over the cache of the first."""
    method = EveryOther(layers=(2,), own_attention=True)
    first = tiny.inputs("w1 <video> w2 w3", videos=[video(seed=1)])
    second = tiny.inputs("w1 <video> w2 w3 w9 <video> w4", videos=[video(seed=1), video(seed=2)])
    turns = [first["input_ids"].shape[1], second["input_ids"].shape[1]]
    new = second["input_ids"][:, turns[0] :]
    with method(tiny.model), torch.no_grad():
        past = tiny.model(**first, use_cache=True).past_key_values
        out = tiny.model(
            input_ids=new,
            attention_mask=second["attention_mask"],
            pixel_values_videos=second["pixel_values_videos"][1:],
            past_key_values=past,
        )
    wanted = reference_logits(tiny.model, second, method, [], turns=turns)
    assert_close(out.logits[0, -1:], wanted, atol=2e-4, rtol=1e-4)
