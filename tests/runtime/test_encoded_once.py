"""Features of one call of the encoder serve every question as if they had been encoded for it alone."""

from __future__ import annotations

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from support.families import small
from support.methods import EveryOther
from support.reference import reference_logits
from support.tiny import Tiny, build_model, video
from torch.testing import assert_close

from holitom import HoliTom, MergedTokens, UnsupportedUsageError, VideoTokens

OUTER, INNER = EveryOther(), EveryOther(layers=(2,))
QUESTIONS = ("w1 <video> w2", "w1 <video> w2 w3 w4", "w1 <video> w2 w3 w4 w5 w6 w7")


def encoded(model: Any, inputs: Any) -> Any:
    return model.get_video_features(inputs["pixel_values_videos"], return_dict=True)


@torch.no_grad()
def asked(model: Any, inputs: Any, features: Any, **settings: Any) -> Any:
    ids = inputs["input_ids"]
    return model(input_ids=ids, mm_encoder_outputs={"video": features}, **settings).logits


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_question_that_begins_as_another_is_one_of_its_own(tiny: Tiny, use_cache: bool) -> None:
    """Also without a cache, where later steps of `generate` look like it."""
    inputs = [tiny.inputs(question, videos=[video()]) for question in QUESTIONS]
    with INNER(tiny.model), torch.no_grad():
        features = encoded(tiny.model, inputs[0])
        for each in inputs:
            wanted = reference_logits(tiny.model, each, INNER, [])
            got = asked(tiny.model, each, features, use_cache=use_cache)
            assert_close(got[0, -1:], wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_answers_without_a_cache_take_turns(tiny: Tiny, settings: dict[str, Any]) -> None:
    """Another question about the same features is answered between two steps of an answer."""
    first, second = (tiny.inputs(question, videos=[video()]) for question in QUESTIONS[:2])
    model, asks = tiny.model, []

    def between(ids: Any, scores: Any) -> Any:
        asks.append(asked(model, second, features, use_cache=False))
        return scores

    def answer(**more: Any) -> list[int]:
        out = model.generate(
            **first, max_new_tokens=4, use_cache=False, do_sample=False, suppress_tokens=[3, 4],
            **settings, **more,
        )  # fmt: skip
        return out[0, -4:].tolist()  # type: ignore[no-any-return]

    with INNER(model), torch.no_grad():
        features = encoded(model, second)
        alone = asked(model, second, features, use_cache=False)
        wanted = answer()
        assert answer(logits_processor=[between]) == wanted
    assert len(asks) == 4
    assert all(torch.equal(each, alone) for each in asks)


def test_threads_share_features(tiny: Tiny) -> None:
    """All merge them at once, and each has a question of another length."""
    barrier = Barrier(len(QUESTIONS))

    class Meets(EveryOther):
        def merge(self, video: VideoTokens) -> MergedTokens:
            if waits:
                barrier.wait(20)
            return super().merge(video)

    waits = False
    inputs = [tiny.inputs(question, videos=[video()]) for question in QUESTIONS]
    with Meets(layers=(2,))(tiny.model) as run, torch.no_grad():
        alone = []
        for each in inputs:
            got = asked(tiny.model, each, encoded(tiny.model, each))
            alone.append((got, run.last.prompt_tokens))  # type: ignore[union-attr]
        features = encoded(tiny.model, inputs[0])
        waits = True

        def ask(each: Any) -> Any:
            return asked(tiny.model, each, features), run.last.prompt_tokens  # type: ignore[union-attr]

        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            together = list(pool.map(ask, inputs))
    for (logits, tokens), (own, own_tokens) in zip(together, alone, strict=True):
        assert torch.equal(logits, own)
        assert tokens == own_tokens


@pytest.mark.parametrize("before", [torch.no_grad, torch.inference_mode])
def test_gradients_reach_features_that_were_asked_without(processor: Any, before: Any) -> None:
    tiny = Tiny(build_model(), processor)
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    weight = tiny.model.model.multi_modal_projector.linear_1.weight
    method, grads = HoliTom(retain_ratio=0.25, inner_layer=2), []
    for evaluated in (False, True):
        tiny.model.zero_grad()
        with method(tiny.model):
            features = encoded(tiny.model, inputs)
            if evaluated:
                with before():
                    tiny.model(input_ids=inputs["input_ids"], mm_encoder_outputs={"video": features})
            out = tiny.model(input_ids=inputs["input_ids"], mm_encoder_outputs={"video": features})
            out.logits[0, -1].sum().backward()
        grads.append(weight.grad.clone())
    assert grads[0].abs().sum() > 0
    assert_close(grads[1], grads[0])


@pytest.mark.parametrize("how", ["in place", "another tensor", "a copy"])
@pytest.mark.parametrize("asked_before", [False, True])
def test_features_that_were_changed_are_refused(tiny: Tiny, how: str, asked_before: bool) -> None:
    """Merging works on what the tower returned, so a change would be passed over."""
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    with INNER(tiny.model), torch.no_grad():
        features = encoded(tiny.model, inputs)
        if asked_before:
            asked(tiny.model, inputs, features)
        if how == "in place":
            features.pooler_output.mul_(0)
        elif how == "another tensor":
            features.pooler_output = features.pooler_output + 1
        else:
            features = copy.deepcopy(features)
            asked(tiny.model, inputs, features)
            features.pooler_output[0, 3] = 0
        with pytest.raises(UnsupportedUsageError, match="or changed since"):
            asked(tiny.model, inputs, features)


@pytest.mark.parametrize("name", ["internvl", "minicpm-v-4.6"])
def test_frames_are_the_videos_that_a_prompt_makes_of_them(name: str) -> None:
    """Frames that came as one video of a prompt are two in another prompt."""
    one = small(name)
    frames = one.video()
    half = len(frames) // 2
    whole = one.inputs("w1 <video> w2", videos=[frames])
    parts = one.inputs("w1 <video> w3 <video> w2", videos=[frames[:half], frames[half:]])
    adapter_encodes = "get_image_features" if "pixel_values" in whole else "get_video_features"
    kind = adapter_encodes.split("_")[1]
    with OUTER(one.model) as run, torch.no_grad():
        wanted = [one.model(**each).logits for each in (whole, parts)]
        counts = len(run.last.videos)  # type: ignore[union-attr]
        pixels = {key: value for key, value in whole.items() if "pixel" in key or "target" in key}
        features = getattr(one.model, adapter_encodes)(**pixels, return_dict=True)
        for each, own in zip((whole, parts, whole), (*wanted, wanted[0]), strict=True):
            text = {key: value for key, value in each.items() if key not in pixels}
            got = one.model(**text, mm_encoder_outputs={kind: features}).logits
            assert_close(got, own)
    assert counts == 2


@pytest.mark.parametrize("name", ["llava-onevision", "internvl", "qwen3-vl"])
def test_beams_leave_features_as_they_were(name: str) -> None:
    """transformers repeats rows in the outputs that it is given: a greedy answer then failed."""
    one = small(name)
    inputs = one.inputs("w1 <video> w2", "w3 <video> w4", videos=[one.video(), one.video()])
    encoder = "get_image_features" if "pixel_values" in inputs else "get_video_features"
    taken = inspect.signature(getattr(one.model, encoder)).parameters
    pixels = {key: value for key, value in inputs.items() if key in taken}
    text = {key: value for key, value in inputs.items() if "pixel" not in key}

    def answers(**given: Any) -> list[Any]:
        settings = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": one.unspoken}
        ways: list[dict[str, Any]] = [{"num_beams": 2, "num_return_sequences": 2}, {}, {"num_beams": 3}, {}]
        return [one.model.generate(**given, **settings, **way).tolist() for way in ways]

    with INNER(one.model), torch.no_grad():
        wanted = answers(**inputs)
        features = getattr(one.model, encoder)(**pixels, return_dict=True)
        given = {encoder.split("_")[1]: features}
        rows = len(features.pooler_output)
        assert answers(**text, mm_encoder_outputs=given) == wanted
    assert list(given) == [encoder.split("_")[1]]
    assert len(features.pooler_output) == rows
