"""What is collected from a run, and what is said of it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.methods import EveryOther
from support.tiny import Tiny, video
from transformers.video_utils import VideoMetadata

from holitom import HoliTom, Method, UnsupportedUsageError
from holitom.costs import Decoder, Layer, Level
from holitom.inspect import Fate, Inspection, Stage, inspect_video, inspection_of, plot
from holitom.inspect.collect import describe
from holitom.inspect.inspection import DARK, readable
from holitom.inspect.paint import paint_fates, paint_kept
from holitom.methods import METHODS, get_method
from holitom.video import Video
from holitom.video.metadata import TimedMetadata


def by_hand(**changes: Any) -> Inspection:
    """Two frames of 1 x 4: position 0 stands still, 1 joins it, 2 is kept in both, 3 is dropped."""
    values: dict[str, Any] = {
        "title": "by hand",
        "method": "Hand()",
        "model": "none",
        "grid": (1, 4),
        "via": np.array([[0, 1, 2, 3], [0, 5, 6, 7]]),
        "into": np.array([[0, 0, 2, -1], [0, 0, 6, -1]]),
        "segments": [(0, 1)],
        "stages": [Stage("full", 8), Stage("spatial", 3)],
    }
    return Inspection(**{**values, **changes})


def a_video(frames: int = 4) -> Video:
    shown = video(frames)
    metadata = VideoMetadata(total_num_frames=2 * frames, fps=4.0)
    metadata.frames_indices = list(range(0, 2 * frames, 2))
    return Video(shown, metadata)


def test_fates_by_hand() -> None:
    inspection = by_hand()
    kept, center, static, joined, dropped = Fate.KEPT, Fate.CENTER, Fate.STATIC, Fate.JOINED, Fate.DROPPED
    assert inspection.fate.tolist() == [[center, joined, kept, dropped], [static, joined, kept, dropped]]
    assert inspection.size.tolist() == [[4, 0, 1, 0], [0, 0, 1, 0]]
    assert inspection.sent == 3
    assert inspection.counts() == {kept: 2, center: 1, static: 1, joined: 2, dropped: 2}
    assert inspection.counts(1, 1) == {kept: 1, center: 0, static: 1, joined: 1, dropped: 1}
    assert inspection.static(0, 1) == 1
    assert inspection.saved(0, 1) == 1
    assert inspection.segment_of.tolist() == [0, 0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_inspected(tiny: Tiny, name: str) -> None:
    method = get_method(name, retain_ratio=0.5)
    inspection = inspect_video(tiny.model, tiny.processor, a_video(8), method, "w1 w2", max_new_tokens=2)
    assert inspection.shape == (8, 16)
    assert sum(inspection.counts().values()) == 128
    assert inspection.sent == next(
        (stage.tokens for stage in reversed(inspection.stages) if not stage.name.startswith("layer")), 128
    )
    assert inspection.importance is not None  # read for the page, whether the method reads it or not
    assert inspection.importance.shape == (8, 16)
    assert inspection.similarity is not None
    assert inspection.similarity.shape == (7, 16)
    assert inspection.answer
    for layer, left in (inspection.survivors or {}).items():
        assert not (left & (inspection.size == 0)).any()  # what survives was sent
        stage = next(stage for stage in inspection.stages if stage.name == f"layer {layer}")
        assert left.sum() == stage.tokens  # the newline, which competes there, apart
    if method.inner(4):
        assert inspection.survivors


def test_without_a_question_the_language_model_does_not_run(tiny: Tiny) -> None:
    method = HoliTom(0.25, similarity_threshold=0.8)
    ran = []
    hook = tiny.model.model.language_model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    with hook:
        without = inspect_video(tiny.model, tiny.processor, a_video(), method)
        assert not ran
        asked = inspect_video(tiny.model, tiny.processor, a_video(), method, "w1", max_new_tokens=1)
        assert ran
    assert without.survivors is None
    assert without.answer is None
    assert asked.survivors
    assert np.array_equal(without.into, asked.into)
    # And nothing is left on the model.
    assert not tiny.model.model.language_model._forward_pre_hooks


def test_it_is_the_run_of_the_method_alone(tiny: Tiny) -> None:
    """Watching changes nothing: what `run.last` reports without it is what is drawn."""
    method = HoliTom(0.25, similarity_threshold=0.8)
    inspection = inspect_video(tiny.model, tiny.processor, a_video(), method, "w1 w2", max_new_tokens=2)
    from holitom.ask import prompt

    with torch.inference_mode(), method(tiny.model) as run:
        tiny.model.generate(**prompt(tiny.processor, a_video(), "w1 w2"), max_new_tokens=2, do_sample=False)
    assert run.last is not None
    (report,) = run.last.videos
    again = inspection_of(report)
    assert np.array_equal(again.into, inspection.into)
    assert np.array_equal(again.via, inspection.via)
    assert [stage.tokens for stage in again.stages] == [64, *report.outer.values(), report.remaining]
    assert again.survivors is not None
    assert inspection.survivors is not None
    assert np.array_equal(again.survivors[3], inspection.survivors[3])
    places = report.frame * 16 + report.position
    assert sorted(places.tolist()) == np.flatnonzero(inspection.size).tolist()
    assert inspection.seconds is not None
    assert inspection.seconds.tolist() == [0, 0.5, 1, 1.5]


def test_frames_have_the_times_that_the_file_states(tiny: Tiny) -> None:
    """At a rate that varies these are not number / rate."""
    times = [0.0, 0.1, 2.0, 7.5]
    metadata = TimedMetadata.of(times, range(4), total=4, rate=0.4, duration=10.0, size=(64, 64))
    inspection = inspect_video(tiny.model, tiny.processor, Video(video(4), metadata), HoliTom(0.25))
    assert inspection.seconds is not None
    assert inspection.seconds.tolist() == times


def test_costs_are_those_of_the_papers_formula(tiny: Tiny) -> None:
    method = HoliTom(0.25, similarity_threshold=0.8)
    inspection = inspect_video(tiny.model, tiny.processor, a_video(), method, "w1", max_new_tokens=1)
    full, *_, outer, inside = inspection.stages
    decoder = Decoder(64, (Layer(128),) * 4)
    assert full.operations == decoder.prefill([Level(0, 64)])
    assert inside.operations == decoder.prefill([Level(0, outer.tokens), Level(3, inside.tokens)])
    # Two heads of 16 for keys and for values, float32.
    assert full.kv_bytes == 64 * 4 * 2 * 2 * 16 * 4
    assert inside.kv_bytes == (3 * outer.tokens + inside.tokens) * 2 * 2 * 16 * 4


def test_two_frames_to_a_row_of_tokens_show_the_first(tiny: Tiny) -> None:
    with Method(1.0)(tiny.model) as run, torch.no_grad():
        tiny.model(**tiny.inputs("w1 <video>", videos=[video(3)]))
    assert run.last is not None
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), dtype=np.uint8)
    shown = inspection_of(run.last.videos[0], frames, numbers=np.arange(6) * 10, seconds=np.arange(6.0))
    assert shown.frames is not None
    assert shown.frames[:, 0, 0, 0].tolist() == [0, 2, 4]
    assert shown.seconds is not None
    assert shown.seconds.tolist() == [0, 2, 4]
    with pytest.raises(UnsupportedUsageError, match="2 frames for 3 rows"):
        inspection_of(run.last.videos[0], frames[:2])


def test_a_method_that_does_not_say_is_refused(tiny: Tiny) -> None:
    with EveryOther()(tiny.model) as run, torch.no_grad():
        tiny.model(**tiny.inputs("w1 <video>", videos=[video()]))
    assert run.last is not None
    with pytest.raises(UnsupportedUsageError, match="does not say where its tokens went"):
        inspection_of(run.last.videos[0])


def test_methods_are_named_with_what_was_set() -> None:
    assert describe(HoliTom(0.1)) == "HoliTom(retain_ratio=0.1)"
    assert describe(HoliTom(0.2, knn=3)) == "HoliTom(retain_ratio=0.2, knn=3)"


def test_a_run_draws_itself_with_and_without_frames(tiny: Tiny) -> None:
    with HoliTom(0.25, similarity_threshold=0.8)(tiny.model) as run:
        inputs = tiny.inputs("w1 <video>", "<video> w2", videos=[video(seed=1), video(seed=2)])
        tiny.model.generate(**inputs, max_new_tokens=2)
    assert run.last is not None
    for figure in (plot(run.last.videos[0]), plot(run.last.videos[1], video(seed=2))):
        words = " ".join(text.get_text() for ax in figure.axes for text in ax.texts)
        assert "64 visual tokens become" in words
        assert "What the question keeps" in words


def test_what_merges_inside_alone_asks_for_a_question(tiny: Tiny) -> None:
    method = get_method("fastv", retain_ratio=0.5)
    without = inspect_video(tiny.model, tiny.processor, a_video(), method)
    assert "Ask a question" in (without.hint or "")
    asked = inspect_video(tiny.model, tiny.processor, a_video(), method, "w1", max_new_tokens=1)
    assert asked.hint is None
    assert 0 < asked.remaining < asked.sent == 64
    assert asked.headline == f"64 visual tokens become 64 (100.0%), and {asked.remaining} from layer 2 on"
    merged = inspect_video(tiny.model, tiny.processor, a_video(), HoliTom(0.25))
    assert merged.hint is None


def test_an_inspection_is_data(tiny: Tiny) -> None:
    """It pickles, keeps no model alive, and its figures are JSON."""
    one = inspect_video(tiny.model, tiny.processor, a_video(), HoliTom(0.25), "w1", max_new_tokens=1)
    stored = pickle.dumps(one)
    assert b"torch" not in stored
    again = pickle.loads(stored)
    assert np.array_equal(again.into, one.into)
    figures = json.loads(json.dumps(one.to_dict()))
    assert figures["visual_tokens"] == sum(figures["fates"].values()) == 64
    assert figures["sent"] == one.sent == figures["fates"]["kept"] + figures["fates"]["merged into"]
    assert figures["stages"][-1]["tokens"] == figures["remaining"] == one.remaining


def test_frames_are_counted_from_one_as_people_do() -> None:
    one = by_hand()
    assert [one.span(0), one.span(0, 1)] == ["frame 1", "frames 1\N{EN DASH}2"]
    two = by_hand(frames_per_step=2)
    assert [two.span(1), two.span(0, 1)] == ["frames 3\N{EN DASH}4", "frames 1\N{EN DASH}4"]


@given(st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_in_dark_videos_what_is_kept_is_the_brightest(mean: int, seed: int) -> None:
    """Pixel by pixel, in any picture."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 2 * mean + 1, (1, 12, 12, 3)).clip(0, 255).astype(np.uint8)
    assume(frames.mean() < DARK)
    shown = readable(frames)[0]
    painted = {fate: paint_fates(shown, np.array([fate], dtype=np.uint8), (1, 1))[4:8, 4:8] for fate in Fate}
    nothing = paint_kept(shown, np.array([False]), (1, 1))[4:8, 4:8]
    assert painted[Fate.KEPT].mean() >= 48 > 2 * nothing.mean()
    assert (painted[Fate.KEPT] > 2 * painted[Fate.DROPPED].astype(int)).all()


def test_bright_videos_are_shown_as_they_are() -> None:
    frames = np.full((2, 4, 4, 3), 64, dtype=np.uint8)
    assert readable(frames) is frames


def test_reuse_in_the_vision_tower_is_drawn(tiny: Tiny) -> None:
    """The inspected method runs with the reuse that it asks for, and says what of each frame was computed."""
    still = Video(a_video(4).frames[:1].repeat(4, axis=0), a_video(4).metadata)
    with_reuse, without = (
        inspect_video(tiny.model, tiny.processor, still, HoliTom(0.25, reuse=reuse), "w1", max_new_tokens=1)
        for reuse in (True, False)
    )
    assert without.reused is None
    assert without.to_dict()["tower_computed_share"] is None
    reused = with_reuse.reused
    assert reused is not None
    frames, places = reused.computed.shape
    assert frames == 4
    assert reused.grid[0] * reused.grid[1] == places
    assert reused.computed.sum() == places  # one frame whole, nothing of the others
    assert len(set(reused.reference.tolist())) == 1
    assert with_reuse.to_dict()["tower_computed_share"] == 0.25
