"""What attaching makes the host wait for, beyond what the stock model does: counted on a second device."""

from __future__ import annotations

import pytest
from support.families import small

from holitom import HoliTom, Method
from holitom.bench.synchronisations import added_synchronisations

HOLITOM = HoliTom(retain_ratio=0.4, similarity_threshold=0.8)


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_a_decoding_step_adds_none(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    added = added_synchronisations(one.model, HOLITOM, inputs, suppress_tokens=one.unspoken)
    assert added.step == 0, added.places


def test_a_method_that_reads_more_counts_more() -> None:
    class Peeks(Method):
        def merge(self, video):  # type: ignore[no-untyped-def]
            video.features.sum().item()
            return super().merge(video)

    one = small("llava-onevision")
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    keeps, peeks = (added_synchronisations(one.model, method, inputs) for method in (Method(), Peeks()))
    assert peeks.prefill == keeps.prefill + 1
    (place,) = peeks.places - keeps.places
    assert "test_synchronisations.py" in place
