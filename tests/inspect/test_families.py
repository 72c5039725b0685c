"""What is drawn of every model family: places, temporal patches, survivors, the way out before the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.families import FAMILIES, small
from transformers import DynamicCache

from holitom import HoliTom
from holitom.costs import Level
from holitom.inspect import inspection_of
from holitom.inspect.collect import _costs, _encode
from holitom.runtime.cache import layer_bytes


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_drawn_is_what_is_sent(name: str) -> None:
    one = small(name)
    frames = one.video()
    inputs = one.inputs("w1 <video> w2", videos=[frames])
    method = HoliTom(0.4, similarity_threshold=0.8, inner_layer=1)
    with torch.no_grad(), method(one.model) as run:
        one.model(**inputs)
    assert run.last is not None
    (report,) = run.last.videos
    inspection = inspection_of(report, frames)
    rows, tokens = inspection.shape
    assert inspection.grid[0] * inspection.grid[1] == tokens
    assert inspection.frames is not None
    assert np.array_equal(inspection.frames, frames[:: len(frames) // rows])

    place = report.place.numpy()
    sent = place[place >= 0]
    assert len(np.unique(sent)) == len(sent)
    assert np.array_equal(np.sort(sent), np.flatnonzero(inspection.size))
    assert report.sent == len(place)
    assert inspection.survivors is not None
    left = inspection.survivors[1]
    assert left.sum() == report.remaining == inspection.remaining == inspection.stages[-1].tokens
    assert inspection.sent == report.visual
    assert inspection.span(0, rows - 1) == f"frames 1\N{EN DASH}{len(frames)}"
    assert inspection.span(0) == ("frame 1" if len(frames) == rows else "frames 1\N{EN DASH}2")
    assert not (left & (inspection.size == 0)).any()

    again = inspection_of(_encode(one.model, inputs, method).videos[0])
    assert np.array_equal(again.into, inspection.into)
    assert again.survivors is None


def bytes_held(model: Any, tokens: int) -> int:
    """Of everything that the model's cache holds behind a prompt of text."""
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(input_ids=torch.full((1, tokens), 12), past_key_values=cache)
    return sum(layer_bytes(layer) for layer in cache.layers)


@pytest.mark.parametrize("name", FAMILIES)
def test_cache_bytes_of_visual_tokens_are_what_the_model_would_hold_of_them(name: str) -> None:
    model = small(name).model
    a_token = bytes_held(model, 9) - bytes_held(model, 8)
    levels = [Level(0, 1000)]
    assert _costs(model)(levels)[1] == 1000 * a_token
