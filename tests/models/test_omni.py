"""Qwen-Omni: a video's sound track stands between its frames, and stays whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.families import Small, small
from support.reference import reference_logits
from torch.testing import assert_close

from holitom import HoliTom, Method, UnsupportedUsageError
from holitom.models import adapter_for

each = pytest.mark.parametrize("name", ["qwen2.5-omni", "qwen3-omni"])
METHOD = HoliTom(0.4, similarity_threshold=0.8)


def heard(one: Small) -> Any:
    """A prompt whose video has a sound track of two seconds, and what the model is to be told of it."""
    sound = np.random.default_rng(0).normal(size=32000).astype(np.float32)
    inputs = one.inputs(
        "w1 <video> w2 w3",
        videos=[one.video()],
        audio=[sound],
        audio_from_video_indices=[0],
        load_audio_from_video=True,
    )
    return {**inputs, "use_audio_in_video": True}


@each
def test_the_sound_track_stays(name: str) -> None:
    one = small(name)
    inputs = heard(one)
    ids = inputs["input_ids"][0]
    seen = adapter_for(one.model).placeholders(inputs["input_ids"])[0]
    sounds = ids == one.model.config.audio_token_id
    assert int((seen.int().diff() == 1).sum()) > 1  # sound between frames
    with METHOD(one.model) as run, torch.no_grad():
        out = one.model(**inputs).logits[0, -1:]
    assert run.last is not None
    before, after = run.last.prompt_tokens
    (video,) = run.last.videos
    assert int(sounds.sum()) > 0
    assert before - after == int(seen.sum()) - video.sent > 0
    wanted = reference_logits(one.model, inputs, METHOD, [])
    assert_close(out, wanted, atol=3e-4, rtol=1e-3)


@each
def test_off_means_off_with_sound(name: str) -> None:
    one = small(name)
    inputs = heard(one)
    with torch.no_grad():
        full = one.model(**inputs).logits
        with Method(1.0)(one.model):
            assert torch.equal(one.model(**inputs).logits, full)


@each
def test_sound_alone_is_no_video(name: str) -> None:
    one = small(name)
    sound = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    inputs = one.inputs("w1 <|audio_start|> <|audio_pad|> <|audio_end|> w2", audio=[sound])
    with torch.no_grad():
        full = one.model(**inputs).logits
        with METHOD(one.model) as run:
            assert torch.equal(one.model(**inputs).logits, full)
    assert run.last is None


@each
def test_speech_about_a_merged_video_is_refused(name: str) -> None:
    """A talker asks for hidden states so, and would read them by the unmerged prompt's columns."""
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    as_a_talker: dict[str, Any] = {
        "output_hidden_states": True,
        "return_dict_in_generate": True,
        "max_new_tokens": 2,
        "do_sample": False,
        "suppress_tokens": one.unspoken,
    }
    wanted = one.model.generate(**inputs, **as_a_talker)
    with METHOD(one.model):
        with pytest.raises(UnsupportedUsageError, match='generation_mode="text"'):
            one.model.generate(**inputs, **as_a_talker)
        one.model.generate(**inputs, **as_a_talker | {"output_hidden_states": False})
        one.model.generate(**one.inputs("w1 w2"), **as_a_talker)
        with torch.no_grad():
            assert one.model(**inputs, output_hidden_states=True).hidden_states is not None
    with Method(1.0)(one.model):
        same = one.model.generate(**inputs, **as_a_talker)
    assert torch.equal(same.sequences, wanted.sequences)
    assert torch.equal(same.hidden_states[0][-1], wanted.hidden_states[0][-1])
