"""What is drawn of every model family: places, temporal patches, survivors, the way out before the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.families import FAMILIES, small

from holitom import HoliTom
from holitom.inspect import inspection_of
from holitom.inspect.collect import _encode


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
    assert 0 < left.sum() <= report.stages["layer 1"]
    assert not (left & (inspection.size == 0)).any()

    again = inspection_of(_encode(one.model, inputs, method).videos[0])
    assert np.array_equal(again.into, inspection.into)
    assert again.survivors is None
