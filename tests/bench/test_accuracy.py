"""The accuracy bench: the same questions for everyone, resumable, and never mixing two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holitom import HoliTom
from holitom.ask import load_model
from holitom.bench import moving_digits as md
from holitom.bench.accuracy import ResultsError, Setting, evaluate, held_out_questions
from holitom.cli import BUNDLED_MODEL


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    return load_model(str(BUNDLED_MODEL))


def test_questions_are_balanced_and_a_longer_list_begins_with_the_shorter_one_s_videos() -> None:
    few, more = held_out_questions(5), held_out_questions(10)
    assert {t: sum(i.task == t for i in few) for t in md.TASKS} == dict.fromkeys(md.TASKS, 5)
    assert set(few) <= set(more)
    assert len(set(more)) == len(more)


def test_full_tokens_answer_and_the_count_is_the_prompt_s(bundled: tuple[Any, Any], tmp_path: Path) -> None:
    items = held_out_questions(4)
    outcome = evaluate(*bundled, Setting("full tokens", None), items, tmp_path)
    assert outcome.right.mean() > 0.6  # far above chance; the bench itself prints the figure
    assert (outcome.tokens == 16 * 49 + 1).all()


def test_a_killed_run_goes_on_where_it_was(bundled: tuple[Any, Any], tmp_path: Path) -> None:
    items = held_out_questions(2)
    setting = Setting("HoliTom 10%", HoliTom(0.10))
    whole = evaluate(*bundled, setting, items, tmp_path / "whole", batch=4)
    path = tmp_path / "cut" / f"{setting.slug}.jsonl"
    path.parent.mkdir()
    lines = (tmp_path / "whole" / f"{setting.slug}.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:6]) + '["thr')
    steps: list[int] = []
    resumed = evaluate(*bundled, setting, items, path.parent, batch=4, progress=steps.append)
    assert steps[0] == 5
    assert sum(steps) == len(items)
    assert (resumed.right == whole.right).all()
    assert (resumed.tokens == whole.tokens).all()


@pytest.mark.parametrize("other", ["questions", "setting", "dtype"])
def test_results_of_another_run_are_refused(bundled: tuple[Any, Any], tmp_path: Path, other: str) -> None:
    import torch

    model, processor = bundled
    items, method = held_out_questions(1), HoliTom(0.10)
    evaluate(model, processor, Setting("x", method), items, tmp_path)
    if other == "questions":
        items = held_out_questions(2)
    elif other == "setting":
        method = HoliTom(0.15)
    else:
        model = load_model(str(BUNDLED_MODEL), "float32")[0]
        assert model.dtype == torch.float32
    with pytest.raises(ResultsError, match="another run"):
        evaluate(model, processor, Setting("x", method), items, tmp_path)
