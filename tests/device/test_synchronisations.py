"""What attaching makes the host wait for, beyond what the stock model does: counted on a second device."""

from __future__ import annotations

import pytest
from support.families import FAMILIES, small
from support.methods import EveryOther

from holitom import HoliTom, Method
from holitom.bench.synchronisations import added_synchronisations

pytestmark = pytest.mark.device

HOLITOM = HoliTom(retain_ratio=0.4, similarity_threshold=0.8)


FAST = ("llava-onevision", "internvl", "smolvlm2", "videollama3", "qwen2.5-vl", "qwen3-vl", "glm-4.1v")
each_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in FAMILIES]
)


@each_family
def test_a_prefill_adds_at_most_four_and_a_decoding_step_none(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    added = added_synchronisations(one.model, HOLITOM, inputs, suppress_tokens=one.unspoken)
    assert added.prefill <= 4, added.places
    assert added.step == 0, added.places


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_a_batch_adds_no_more_than_a_row(name: str) -> None:
    one = small(name)
    videos = [one.video(), one.video(1)]
    alone = one.inputs("w1 <video> w2 w3", videos=videos[:1])
    both = one.inputs("w1 <video> w2 w3", "<video> w9 w8 w7 w6", videos=videos)
    outer = HoliTom(retain_ratio=0.4, similarity_threshold=0.8, inner_drop=None)
    row, batch = (
        added_synchronisations(one.model, outer, inputs, suppress_tokens=one.unspoken)
        for inputs in (alone, both)
    )
    assert batch.prefill <= row.prefill + 1, batch.places  # each video is merged by itself
    assert batch.step == 0, batch.places


@pytest.mark.parametrize("name", ["llava-onevision", "qwen3-vl"])
def test_a_stage_that_reads_the_text_adds_no_more_than_another(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    read, other = (
        added_synchronisations(one.model, EveryOther(layers=(2,), text=text), inputs)
        for text in (True, False)
    )
    assert read.prefill == other.prefill, read.places


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
