"""What `holitom drift` and `holitom bench reuse` measure, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holitom import HoliTom, Method
from holitom.ask import load_model, prompt
from holitom.bench.answers import ResultsError
from holitom.bench.drift import Cosines, drift, overlap
from holitom.bench.questions import held_out_questions
from holitom.bench.reuse import DISTURBANCES, disturbed, sweep
from holitom.bundled import BUNDLED_MODEL, DEMO_QUESTION, DEMO_VIDEO
from holitom.cli import main
from holitom.errors import SettingsError
from holitom.methods import EVS
from holitom.tower import Reuse
from holitom.video import load_video


@pytest.fixture(scope="module")
def bundled() -> Any:
    return load_model(str(BUNDLED_MODEL), "float32")  # bfloat16 is slow on most processors


def test_the_demo_is_answered_alike_over_a_quarter_of_the_tower(bundled: Any) -> None:
    model, processor = bundled
    inputs = prompt(processor, load_video(DEMO_VIDEO, 16), DEMO_QUESTION)
    found = drift(model, processor, inputs, HoliTom(), Reuse())
    assert found.stock.text == found.reused.text == "ring"
    assert found.report.computed_share < 0.25
    assert found.cosines.lowest <= found.cosines.first_percentile <= found.cosines.mean <= 1 + 1e-6
    assert found.cosines.mean > 0.99
    assert found.kept_overlap is not None
    assert found.kept_overlap > 0.7


def test_nothing_drifts_where_nothing_is_reused(bundled: Any) -> None:
    model, processor = bundled
    inputs = prompt(processor, load_video(DEMO_VIDEO, 16), DEMO_QUESTION)
    found = drift(model, processor, inputs, HoliTom(), Reuse(reach=1))
    assert found.report.stock
    assert found.kept_overlap == 1
    assert found.cosines.lowest == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "method", [HoliTom(tower_batch=4), HoliTom(reuse=True), EVS().with_inner(HoliTom())], ids=type
)
def test_a_method_may_bring_batches_and_reuse_of_its_own(method: Any, bundled: Any) -> None:
    model, processor = bundled
    inputs = prompt(processor, load_video(DEMO_VIDEO, 16), DEMO_QUESTION)
    found = drift(model, processor, inputs, method, Reuse(), 2)
    assert found.stock.report.reuse is None
    assert found.reused.report.reuse is not None
    assert found.reused.report.reuse.computed_share == found.report.computed_share < 0.25


def test_the_benchmark_counts_answers_over_both_towers(bundled: Any) -> None:
    items = held_out_questions(1, first_video=100000)
    tallies = [
        sweep(*bundled, {"holitom": HoliTom()}, items, reuse, [("still", "none")])
        for reuse in (Reuse(), Reuse(reach=1))
    ]
    tally, stock = (one.to_dict() for (one,) in tallies)
    figures = tally["methods"]["holitom"]
    assert figures["questions"] == len(items) == 7
    assert tally["computed_share"] < 0.4
    assert figures["reuse"] * 7 == pytest.approx(figures["stock"] * 7 - figures["lost"] + figures["won"])
    assert stock["methods"]["holitom"]["kept_overlap"] == 1
    assert stock["computed_share"] == 1


def test_a_stopped_run_goes_on_and_files_of_another_are_refused(bundled: Any, tmp_path: Path) -> None:
    items = held_out_questions(2, ("needle", "order"), first_video=100000)  # about two videos
    shown = [("pan", "none"), ("still", "noise")]
    methods = {"full": Method(1.0)}

    def run(reuse: Reuse, seconds: float | None, folder: Path | None = tmp_path) -> list[dict[str, Any]]:
        tallies = sweep(*bundled, methods, items, reuse, shown, 2, folder=folder, seconds=seconds)
        return [tally.to_dict() for tally in tallies if tally.questions]

    answered = iter(range(2))

    def stop_after_a_round(done: int) -> None:
        if next(answered) == len(shown) - 1:
            raise KeyboardInterrupt

    assert run(Reuse(), 0.0, None) == []
    with pytest.raises(KeyboardInterrupt):
        sweep(*bundled, methods, items, Reuse(), shown, 2, stop_after_a_round, tmp_path)
    started = run(Reuse(), 0.0)
    assert len(started) == len(shown)
    assert 0 < started[0]["methods"]["full"]["questions"] < len(items)
    whole = run(Reuse(), None)
    assert [(row["camera"], row["disturbance"]) for row in whole] == shown
    assert whole == run(Reuse(), 0.0) == run(Reuse(), None, None)
    with pytest.raises(ResultsError, match="not the same reuse"):
        run(Reuse(threshold=4), None)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbance_is_the_same_each_time(name: str) -> None:
    one, other = disturbed(100000, name), disturbed(100000, name)
    assert one.dtype == np.uint8
    assert np.array_equal(one, other)
    assert (name == "none") == np.array_equal(one, disturbed(100000, "none"))


def test_an_unknown_disturbance_is_named(bundled: Any) -> None:
    with pytest.raises(SettingsError, match="unknown disturbance 'fog'; known: none, noise"):
        sweep(*bundled, {}, [], Reuse(), [("still", "fog")])


def test_percentiles_and_overlaps() -> None:
    cosines = Cosines.of(torch.linspace(0, 1, 201).flip(0))
    assert cosines.lowest == 0
    assert cosines.first_percentile == pytest.approx(0.01)
    assert cosines.mean == pytest.approx(0.5)
    places = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    assert overlap(places, (torch.tensor([0, 1, 2]), torch.tensor([2, 2, 2]))) == pytest.approx(1 / 3)


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", "--json", "--retain", "0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same_answer"]
    assert 0 < found["computed_share"] < 0.5
    assert set(found["cosine"]) == {"mean", "first_percentile", "lowest"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drift", "--reuse-threshold", "300"], "threshold must be a number in [0, 255]"),
        (["drift", "--tower-batch", "0"], "tower_batch must be a whole number from 1 on"),
        (["ask", "--tower-batch", "-1"], "tower_batch must be a whole number from 1 on"),
        (["drift", "--reach", "0"], "reach must be a whole number in [1, 64]"),
        (["drift", "clip.mp4"], "no such file"),
        (["drift", str(DEMO_VIDEO)], "a question is needed"),
        (["drift", "--method", "holitom[knn=0]"], "knn must be"),
        (["bench", "reuse", "--disturb", "fog"], "unknown disturbance 'fog'"),
    ],
)
def test_bad_settings_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
