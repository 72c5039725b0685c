"""The vision tower in batches of frames: what comes out is what all frames at once give, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import FAMILIES, Small, small
from support.towers import CAN, mixed

from holitom import HoliTom, Method, SettingsError
from holitom.methods import AOT, DPP, EarlyTom
from holitom.models import adapter_for
from holitom.runtime.batches import batches
from holitom.tower import Reuse

OF_ONE_LENGTH = ("llava-onevision", "llava-video", "llava-next-video", "internvl", "internvl-moe", "smolvlm2")


def inputs_of(own: Small, name: str) -> Any:
    """Two videos, of two lengths where the processor takes them; with an image among InternVL's frames."""
    other = own.video(seed=1)
    videos = [own.video(), other if name in OF_ONE_LENGTH else other[:4]]
    if name.startswith("internvl"):
        return own.inputs("w1 <video> w2 <image> w3 <video> w4", videos=videos, images=[own.image()])
    return own.inputs("w1 <video> w2", "w3 <video> w4", videos=videos)


@torch.no_grad()
def forward(own: Small, method: Method, inputs: Any) -> tuple[list[torch.Tensor], list[int]]:
    """What is to be the same, and how many patches each call of the tower was given."""
    given: list[int] = []
    adapter = adapter_for(own.model)
    hook = adapter.vision_layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: given.append(
            (args[0] if args else kwargs["hidden_states"])[..., 0].numel()
        ),
        with_kwargs=True,
    )
    with hook, method(own.model) as run:
        logits = own.model(**inputs).logits
    assert run.last is not None
    return [logits, *(video.importance for video in run.last.videos)], given


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_batches_of_frames_change_nothing(name: str, size: int) -> None:
    own = small(name)
    inputs = inputs_of(own, name)
    whole, (all_patches,) = forward(own, HoliTom(0.5), inputs)
    parts, given = forward(own, HoliTom(0.5, tower_batch=size), inputs)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)
    assert len(given) > 2
    assert sum(given) == all_patches
    assert max(given) <= all_patches // 2


@pytest.mark.parametrize("method", [AOT, DPP, Method])
@pytest.mark.parametrize("name", ["llava-onevision", "internvl", "qwen2.5-vl", "qwen3-vl"])
def test_what_methods_read_is_read_of_all_frames(name: str, method: type[Method]) -> None:
    own = small(name)
    inputs = inputs_of(own, name)
    whole, _ = forward(own, method(0.5), inputs)
    parts, given = forward(own, method(0.5, tower_batch=2), inputs)
    assert len(given) > 2
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", CAN)
def test_reuse_is_planned_over_all_batches(name: str, size: int) -> None:
    own = small(name)
    inputs = own.inputs("w1 <video> w2", videos=[mixed(own)])
    reuse = Reuse(threshold=0, reach=2)
    whole, _ = forward(own, Method(1.0, reuse=reuse), inputs)
    parts, given = forward(own, Method(1.0, reuse=reuse, tower_batch=size), inputs)
    assert len(given) > 1
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl", "internvl"])
def test_generate_and_encoding_before_it(name: str) -> None:
    own = small(name)
    inputs = own.inputs("w1 <video> w2", videos=[own.video()])
    adapter = adapter_for(own.model)
    pixels = {key: inputs[key] for key in (adapter.pixels_name, *adapter.encoder_arguments)}
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    with HoliTom(0.5)(own.model):
        wanted = own.model.generate(**inputs, **settings)
    with HoliTom(0.5, tower_batch=2)(own.model), torch.no_grad():
        assert torch.equal(own.model.generate(**inputs, **settings), wanted)
        encoded = getattr(adapter.trunk, adapter.encoder)(**pixels, return_dict=True)
        rest = {key: value for key, value in inputs.items() if key != adapter.pixels_name}
        outputs = {adapter.modality: encoded}
        assert torch.equal(own.model.generate(**rest, mm_encoder_outputs=outputs, **settings), wanted)
        as_ever = getattr(adapter.trunk, adapter.encoder)(
            **pixels, return_dict=True, output_hidden_states=True
        )
        assert as_ever.hidden_states is not None  # asked for, so all frames go through at once


@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_batches_end_where_they_may(steps: int, size: int, data: st.DataObject) -> None:
    inner = data.draw(st.lists(st.booleans(), min_size=steps - 1, max_size=steps - 1))
    borders = np.array([True, *inner, True])
    found = batches(steps, size, borders)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found)][:-1]
    assert found[-1][1] == steps
    for begin, end in found:
        assert borders[end]
        if end - begin > size:  # nowhere nearer
            assert not borders[begin + 1 : end].any()
        else:  # and no further than need be
            assert not borders[end + 1 : begin + size + 1].any()
    assert max(end - begin for begin, end in batches(steps, size)) <= size


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "8", 2**64])
def test_what_is_no_number_of_frames(size: Any) -> None:
    with pytest.raises(SettingsError, match="tower_batch must be a whole number from 1 on, or None"):
        HoliTom(tower_batch=size)


def test_merging_frames_in_the_tower_takes_all_of_them() -> None:
    with pytest.raises(SettingsError, match="in_tower merges frames of the whole video"):
        EarlyTom(in_tower=True, tower_batch=8)
