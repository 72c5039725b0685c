"""Requests of the page without a browser: runs on the bundled model, and errors as sentences."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from shutil import copy
from threading import Event
from typing import Any

import pytest
from support.video_files import turn_sideways, write_video

from holitom import cli
from holitom.ask import ask, load_model, prompt
from holitom.bundled import BUNDLED_MODEL, BUNDLED_MODELS, DEMO_QUESTION, DEMO_VIDEO
from holitom.errors import HolitomError
from holitom.methods import METHODS, HoliTom, Method, get_method
from holitom.video import load_video
from holitom.web.answering import Desk, Request, Update
from holitom.web.cards import PARTS, answer_card, headline, history_table, marked, seconds
from holitom.web.controls import groups, least_percent, merging_inside, usual_threshold
from holitom.web.copying import Loaded, command, python, vllm
from holitom.web.history import Figures, History, Ran, add, times
from holitom.web.library import library
from holitom.web.words import compare, looked_over, respond, status

DEMO = Request(DEMO_VIDEO, DEMO_QUESTION, frames=16)
WHERE = Request(
    DEMO_VIDEO, "Where is the white digit at the start?", "visionzip", 0.25, inner=True, frames=16
)


@pytest.fixture(scope="module")
def desk() -> Desk:
    model, processor = load_model(str(BUNDLED_MODEL), "float32", "cpu")  # bfloat16 is slow on most processors
    return Desk(model, processor, "the bundled model")


def final(desk: Desk, request: Request) -> dict[str, Update]:
    """The last update of each run."""
    return {update.run: update for update in desk.answers(request) if update.run is not None}


def said(desk: Desk, request: Request) -> dict[str, str]:
    """What the page shows in the end."""
    shown: dict[str, str] = {}
    for change in respond(desk, request, Loaded()):
        shown |= change
    return shown


def said_in(card: str) -> str:
    """The answer that a card shows, "" where it shows none."""
    found = re.search(r"<p class=said[^>]*>(.*?)</p>", card)
    assert found
    return "" if "quiet" in found[1] else re.sub("<[^>]*>", "", found[1])


def alone(desk: Desk, request: Request, method: Method) -> Any:
    inputs = prompt(desk.processor, load_video(request.video, request.frames), request.question)
    return ask(desk.model, desk.processor, inputs, method)


SHORT = replace(WHERE, frames=4)
"""A request that costs little, asked after one that went wrong."""


@pytest.fixture(scope="module")
def short_answer(desk: Desk) -> str:
    text = alone(desk, SHORT, SHORT.chosen()).text
    assert text
    return str(text)


def test_both_answers_are_those_of_the_library(desk: Desk) -> None:
    done = final(desk, WHERE)
    expected = {
        "merged": get_method("visionzip", retain_ratio=0.25).with_inner(HoliTom()),
        "full": Method(1.0),
    }
    for run, method in expected.items():
        timed, own = done[run].timed, alone(desk, WHERE, method)
        assert timed is not None
        answer = timed.answer
        assert done[run].text == answer.text == own.text
        assert answer.report.videos[0].stages == own.report.videos[0].stages
        assert answer.report.kv_bytes == own.report.kv_bytes
    assert done["full"].text == "top right"


def test_answers_come_word_by_word_and_the_map_last(desk: Desk) -> None:
    updates = list(desk.answers(WHERE))
    full = [update.text for update in updates if update.run == "full"]
    assert full[-1] == "top right"
    assert full.index("top") < full.index("top right")
    last = updates[-1]
    assert last.status == "Done: the same answer from 196 of 784 visual tokens."
    assert last.inspection is not None
    assert last.inspection.into.shape == (16, 49)
    assert last.inspection.frames is not None
    # All that `holitom inspect` shows: similarity over time, and the cost of each stage.
    assert last.inspection.similarity is not None
    assert last.inspection.similarity.shape == (15, 49)
    assert [stage.tokens for stage in last.inspection.stages][:2] == [784, 196]
    assert all(stage.operations and stage.kv_bytes for stage in last.inspection.stages)


def test_the_page_counts_the_time_to_the_first_token_in_the_parts_of_ask(desk: Desk) -> None:
    done = final(desk, DEMO)
    figures = {run: Figures.of(update.timed) for run, update in done.items() if update.timed is not None}
    for run, one in figures.items():
        timed = done[run].timed
        assert timed is not None
        assert list(one.parts) == ["reading", "preprocessing", "vision", "merging", "prefill"]
        assert all(seconds >= 0 for seconds in one.parts.values())
        assert one.first == pytest.approx(timed.first_token)
        assert one.from_file == pytest.approx(timed.whole)
        assert timed.to_dict()["file_to_first_token"] == timed.whole
    shown = headline(Ran(DEMO, **figures))
    for part in PARTS:
        assert f'<b class="{part}" style="width:' in shown
    reading = f"Reading <span>{seconds(figures['full'].parts['reading'])}</span>"
    assert reading in shown  # read once for both


def test_the_page_in_the_end(desk: Desk) -> None:
    shown = said(desk, DEMO)
    assert shown["status"] == '<p role="status">Done: the same answer from 86 of 784 visual tokens.</p>'
    assert said_in(shown["merged"]) == said_in(shown["full"]) == "ring"
    assert "784 visual tokens" in shown["full"]
    assert "86 visual tokens, 43 from layer 5 on" in shown["merged"]
    assert "<strong>Same answer</strong> 11.0% of the visual tokens" in shown["headline"]
    assert "10.2% of the KV cache" in shown["headline"]
    for row in ("86 of 784, then 43", " beside ", "0.99 of 9.77 MB"):
        assert row in shown["headline"]
    assert "tokens/s" not in shown["headline"]  # of one word; too few to compare
    assert shown["map"].startswith("<holitom-map")
    assert [ran.merged.text for ran in shown["history"]] == ["ring"]


def long(path: Path) -> Path:
    return write_video(
        path / "long.mp4", frames=13, rate=Fraction(1, 600)
    )  # two hours, a frame in ten minutes


def text(path: Path) -> Path:
    (path / "notes.mp4").write_text("no video\n" * 100)
    return path / "notes.mp4"


def empty(path: Path) -> Path:
    (path / "empty.mp4").touch()
    return path / "empty.mp4"


BAD_VIDEOS = {
    "notes.mp4: no readable video": text,
    "empty.mp4: the file is empty": empty,
    "long.mp4: lasts 130.0 minutes, longer than the 10": long,
    "The video is no longer here": lambda path: path / "gone.mp4",
}


@pytest.mark.parametrize("sentence", list(BAD_VIDEOS)[:3])
def test_a_bad_video_is_reported_as_soon_as_it_is_chosen(desk: Desk, tmp_path: Path, sentence: str) -> None:
    assert looked_over(desk, BAD_VIDEOS[sentence](tmp_path))[0] == ""
    assert looked_over(desk, BAD_VIDEOS[sentence](tmp_path))[1].startswith(f'<p role="alert">{sentence}')


def test_a_good_video_is_shown_and_described(desk: Desk, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a <b>&#.mp4")
    shown, said = looked_over(desk, path)
    assert said == '<p role="status">Ready: a &lt;b&gt;&amp;#.mp4, 24 frames, 3.0 s</p>'
    assert "a%20%3Cb%3E%26%23.mp4" in shown
    assert "<b>" not in shown
    assert looked_over(desk, None) == ("", '<p role="status">Choose a video</p>')


@pytest.mark.parametrize("sentence", BAD_VIDEOS)
def test_a_bad_video_is_a_sentence_and_the_next_request_works(
    desk: Desk, tmp_path: Path, sentence: str, short_answer: str
) -> None:
    shown = said(desk, Request(BAD_VIDEOS[sentence](tmp_path), "Which shape flashes?"))
    assert shown["status"].startswith(f'<p role="alert">{sentence}')
    assert said_in(shown["merged"]) == shown["map"] == ""  # nothing of the request before is left standing
    assert said_in(said(desk, SHORT)["merged"]) == short_answer


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"question": " "}, "The question is empty"),
        ({"question": "a" * 100_000}, "The question has 100,000 characters; it may have 10,000 at most"),
        ({"method": "<b>"}, "Unknown method &#x27;&lt;b&gt;&#x27;"),
        ({"retain_ratio": 0.0}, "Retain_ratio must be a number in (0, 1]"),
        ({"method": "dycoke", "retain_ratio": 0.02}, ""),
        ({"method": "fastv", "inner": False}, "FastV works inside the language model alone"),
        ({"frames": 0}, "Frames must be from 1 to 64, not 0"),
        ({"frames": 65}, "Frames must be from 1 to 64, not 65"),
    ],
)
def test_a_bad_request_is_a_sentence(
    desk: Desk, wrong: dict[str, Any], sentence: str, short_answer: str
) -> None:
    shown = said(desk, Request(**({"video": DEMO_VIDEO, "question": "Which shape flashes?"} | wrong)))
    assert shown["status"].startswith(f'<p role="alert">{sentence}')
    assert "Traceback" not in shown["status"]
    assert said_in(said(desk, SHORT)["merged"]) == short_answer


def test_an_unexpected_error_is_logged_and_shown_as_a_sentence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(desk, "model", None)
    shown = said(desk, DEMO)
    assert shown["status"].startswith('<p role="alert">Something went wrong here')
    assert "Traceback" in caplog.text
    monkeypatch.undo()
    assert said_in(said(desk, DEMO)["merged"]) == "ring"


def test_odd_videos_are_answered(desk: Desk, tmp_path: Path) -> None:
    portrait = write_video(tmp_path / "portrait.mp4", size=(48, 64))
    turned = turn_sideways(write_video(tmp_path / "turned.mp4"))
    alpha = write_video(tmp_path / "alpha.mkv", codec="ffv1", pix_fmt="yuva420p")
    for path, shape in ((portrait, (64, 48)), (turned, (64, 48)), (alpha, (48, 64))):
        *_, last = desk.answers(Request(path, "Which shape flashes?", frames=4))
        assert last.inspection is not None
        assert last.inspection.frames is not None
        assert last.inspection.frames.shape == (4, *shape, 3)


def test_users_at_once_do_not_mix(desk: Desk) -> None:
    asked = [
        Request(DEMO_VIDEO, question, method, ratio, frames=frames)
        for question, method, ratio, frames in [
            ("Which shape flashes?", "holitom", 0.1, 8),
            ("Where is the white digit at the start?", "visionzip", 0.5, 8),
            ("How many scenes are there?", "uniform", 0.25, 4),
        ]
    ]
    expected = [final(desk, request) for request in asked]
    with ThreadPoolExecutor(6) as users:
        found = list(users.map(lambda request: final(desk, request), asked * 2))
    for got, wanted in zip(found, expected * 2, strict=True):
        for run in ("merged", "full"):
            mine, theirs = got[run].timed, wanted[run].timed
            assert mine is not None
            assert theirs is not None
            assert mine.answer.text == theirs.answer.text
            assert mine.answer.report.kv_bytes == theirs.answer.report.kv_bytes
            assert mine.answer.visual_tokens == theirs.answer.visual_tokens


def test_leaving_ends_the_run_and_the_model_is_free(desk: Desk, short_answer: str) -> None:
    for until in ("Reading the video", "Waiting for the model", None):
        answers = desk.answers(WHERE)
        for update in answers:
            if update.status == until or (until is None and update.text):
                break
        answers.close()  # type: ignore[attr-defined]
        assert final(desk, SHORT)["merged"].text == short_answer
    own = alone(desk, DEMO, Method(1.0))  # what was attached is attached no more
    assert own.visual_tokens == 784


def test_a_server_that_ends_says_so_to_those_who_wait(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    ending, busy = Desk(desk.model, desk.processor, desk.title), Event()
    ending._runs.submit(busy.wait)
    shown = respond(ending, DEMO, Loaded())
    while "Waiting for the model" not in next(shown).get("status", ""):
        pass
    ending.close()
    busy.set()
    *_, last = shown
    assert last["status"].startswith('<p role="alert">The server is ending')
    assert not caplog.text


def test_the_threshold_that_each_method_takes() -> None:
    assert usual_threshold("holitom", 0.1) == 0.65
    assert usual_threshold("holitom", 0.11) == 0.8
    assert usual_threshold("prunevid", 0.1) == 0.8
    assert usual_threshold("fastv", 0.1) is None
    # The slider's value goes with the request; where it is the usual one, or has no meaning, nothing is set.
    assert Request(DEMO_VIDEO, "", "holitom", 0.1, 0.65).settings == {"retain_ratio": 0.1}
    assert Request(DEMO_VIDEO, "", "fastv", 0.1, 0.65).settings == {"retain_ratio": 0.1}
    assert Request(DEMO_VIDEO, "", "holitom", 0.1, 0.0).chosen() == HoliTom(0.1, similarity_threshold=0.0)
    assert Request(DEMO_VIDEO, "", "holitom", 0.2, 0.8, False).chosen() == HoliTom(0.2, inner_drop=None)
    assert Request(DEMO_VIDEO, "", "evs", 0.2, inner=False).chosen() == get_method("evs", retain_ratio=0.2)


def test_the_box_for_merging_inside_shows_what_runs() -> None:
    shown = {name: merging_inside(name) for name in METHODS}
    for name in ("holitom", "holitom-plus", "flashvid", "earlytom", "unified"):
        assert shown.pop(name) == (True, True)
    assert shown.pop("fastv") == shown.pop("pdrop") == (True, False)
    assert set(shown.values()) == {(False, True)}
    for name in METHODS:
        by_itself = get_method(name, retain_ratio=0.5)
        usual, changes = merging_inside(name)
        assert Request(DEMO_VIDEO, "", name, 0.5).chosen() == by_itself
        assert Request(DEMO_VIDEO, "", name, 0.5, inner=usual).chosen() == by_itself
        assert not changes or Request(DEMO_VIDEO, "", name, 0.5, inner=not usual).chosen() != by_itself


@pytest.mark.parametrize(
    ("method", "ratio", "threshold", "inner"),
    [
        ("holitom", 0.2, 0.7, False),
        pytest.param("visionzip", 0.25, None, True, marks=pytest.mark.slow),
        pytest.param("fastv", 0.25, None, True, marks=pytest.mark.slow),
        pytest.param("flashvid", 0.25, None, False, marks=pytest.mark.slow),
    ],
)
def test_what_is_to_be_copied_gives_the_same_answer(
    desk: Desk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    ratio: float,
    threshold: float | None,
    inner: bool,
) -> None:
    path = tmp_path / "it's $HOME.mp4"
    copy(DEMO_VIDEO, path)
    with path.open("ab") as file:  # another file, the same video
        file.write(b"\0\0\0\x08free")
    request = Request(path, "Where is the white digit at the start?", method, ratio, threshold, inner, 16)
    expected = final(desk, request)
    monkeypatch.chdir(tmp_path)
    code = python(request, Loaded())
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    timed = expected["merged"].timed
    assert timed is not None
    answer = timed.answer
    assert printed[0] == answer.text
    assert printed[1] == f"video 0 (row 0): {answer.report.videos[0]}"

    told, *words = shlex.split(command(request, Loaded()))
    assert told == "holitom"
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert f"{answer.visual_tokens:,}" in table
    assert answer.text in table


def test_frames_by_change_are_read_and_copied(desk: Desk) -> None:
    request = Request(DEMO_VIDEO, "Which shape flashes?", frames=4, frames_by="change")
    video, _ = desk._read(request)
    assert video.times == load_video(DEMO_VIDEO, 4, frames_by="change").times
    assert "load_video(DEMO_VIDEO, frames=4, frames_by='change')" in python(request, Loaded())
    assert "--frames 4 --frames-by change" in command(request, Loaded())
    assert "frames evenly spread" in vllm(request, Loaded(), desk.model.config)
    colour = Request(DEMO_VIDEO, "Which shape flashes?", frames=4, frames_by="colour")  # type: ignore[arg-type]
    with pytest.raises(HolitomError, match="frames_by must be time or change, not 'colour'"):
        final(desk, colour)


def test_the_demo_to_be_copied(tmp_path: Path) -> None:
    path = Path(copy(DEMO_VIDEO, tmp_path / "demo.mp4"))  # as a server keeps it
    request = Request(path, "-x", frames=16)
    loaded = Loaded("org/model", "bfloat16", "cuda:1", 128)
    imported = python(request, Loaded()).splitlines()[1]
    assert imported == "from holitom.bundled import BUNDLED_MODEL, DEMO_VIDEO"
    assert "load_model('org/model', dtype='bfloat16', device='cuda:1')" in python(request, loaded)
    assert "max_new_tokens=128" in python(request, loaded)
    assert command(request, loaded) == (
        "holitom ask --compare --frames 16 --model org/model --retain 0.1 --dtype bfloat16 --device cuda:1 "
        "--max-new-tokens 128 -- "
        "\"$(python -c 'from holitom.bundled import DEMO_VIDEO; print(DEMO_VIDEO)')\" -x"
    )


def test_nothing_is_taken_for_html() -> None:
    assert status("<script>") == '<p role="status">&lt;script&gt;</p>'
    assert marked("<script> a", "a") == "<mark>&lt;script&gt;</mark> a"
    figures = Figures("<b>", 1, 1, 1, None, parts(0.1), None, 1)
    ran = Ran(Request(Path("<i>.mp4"), "<u>"), figures, figures)
    assert not re.search("<[biu]>", history_table((ran,)))


def test_words_that_differ_are_marked() -> None:
    assert marked("two red digits", "three red digits") == "<mark>two</mark> red digits"
    assert marked("same", "same") == "same"
    assert said_in(answer_card("full", marked("a b", "a c"), "done")) == "a b"


def parts(first: float) -> dict[str, float]:
    """A run's seconds up to the first token, of which `first` after the processor."""
    return {"reading": 0.5, "preprocessing": 0.25, "vision": first, "merging": 0.0, "prefill": 0.0}


def ran(request: Request, first: float) -> Ran:
    return Ran(
        request,
        Figures("a", 1, 5, 5, None, parts(first), None, 1),
        Figures("a", 1, 9, 9, None, parts(1), None, 9),
    )


def test_the_sessions_runs_are_bounded_and_times_are_medians_of_repeats() -> None:
    history: History = ()
    for first in (0.1, 0.9, 0.2):
        history = add(history, ran(DEMO, first))
    history = add(history, ran(WHERE, 7.0))
    assert times(history, DEMO).first == (0.2, 1)
    assert times(history, DEMO).from_file == pytest.approx((0.95, 1.75))
    assert times(history, DEMO).sooner == pytest.approx(5)
    assert times(history, DEMO).parts["vision"] == (0.2, 1)
    assert times(history, DEMO).runs == 3
    assert times(history, WHERE).runs == 1
    for _ in range(100):
        history = add(history, ran(DEMO, 0.1))
    assert len(history) == 50
    assert history_table(history).count("<tr class=same>") == 50


def test_a_session_sees_its_own_runs_alone(desk: Desk) -> None:
    mine = [shown["history"] for shown in respond(desk, WHERE, Loaded()) if "history" in shown][-1]
    theirs = [shown["history"] for shown in respond(desk, DEMO, Loaded(), ()) if "history" in shown][-1]
    assert [one.request for one in mine] == [WHERE]
    assert [one.request for one in theirs] == [DEMO]


def test_each_method_is_in_one_group_and_can_meet_its_least_ratio() -> None:
    listed = [name for names in groups().values() for name in names]
    assert sorted(listed) == sorted(METHODS)
    assert groups()["Inside the language model"] == ["fastv", "pdrop"]
    assert [least_percent(name, 16, 49) for name in ("holitom", "dycoke", "pdrop", "uniform", "vcast")] == [
        2,
        25,
        26,
        7,
        3,
    ]
    assert least_percent("uniform", 1, 49) == 100
    for name in METHODS:
        get_method(name, retain_ratio=least_percent(name, 16, 49) / 100).inner(8)


def test_methods_are_compared_on_the_same_frames(desk: Desk) -> None:
    *_, last = compare(desk, DEMO, ["holitom", "visionzip", "dycoke"])
    assert 'aria-label="holitom"' in last["compared"]
    assert "86 of 784" in last["compared"]
    assert "78 of 784" in last["compared"]
    assert "retain_ratio" in last["compared"]  # why DyCoke cannot meet it, in its column
    assert last["compared"].count("<img alt=") - 5 == 2 * 16  # five of the legend
    said = "".join(shown.get("compare_status", "") for shown in compare(desk, DEMO, ["holitom"]))
    assert "Choose 2 to 4 different methods" in said


def test_what_a_run_merged_is_that_of_the_method_alone_when_compared(desk: Desk) -> None:
    columns = [u for u in desk.compared(DEMO, ["evs", "holitom"]) if u.inspection is not None]
    assert [update.run for update in columns] == ["evs", "holitom"]
    *_, own = desk.answers(DEMO)
    assert own.inspection is not None
    assert columns[1].inspection is not None
    assert (columns[1].inspection.into == own.inspection.into).all()


def test_reuse_is_run_shown_and_copied(desk: Desk) -> None:
    request = replace(DEMO, reuse=True)
    shown = said(desk, request)
    (run,) = shown["history"]
    assert run.full.computed is None
    assert 0 < run.merged.computed < 1
    assert f"The vision tower computed {run.merged.computed:.0%} of the frames." in shown["headline"]
    assert f"holitom, reuse ({run.merged.computed:.0%} computed)" in shown["runs"]
    assert "reuse=True" in shown["python"]
    assert "--reuse" in shown["command"]
    assert '"reuse": true' in shown["vllm"]


def test_vllms_flag_is_what_its_plugin_takes(desk: Desk) -> None:
    def flag(**changes: Any) -> str:
        return vllm(replace(DEMO, **changes), Loaded("org/model"), desk.model.config)

    words = shlex.split(flag(method="visionzip", retain_ratio=0.25))
    assert words[:4] == ["vllm", "serve", "org/model", "--hf-overrides"]
    assert json.loads(words[4]) == {"holitom": {"method": "visionzip", "retain_ratio": 0.25}}
    assert json.loads(words[6]) == {"video": {"num_frames": 16}}
    assert flag().startswith("# Without the merging inside")  # and the command behind it
    assert "vllm serve org/model" in flag()
    assert flag(method="fastv", retain_ratio=0.5).startswith("# Not in vLLM: fastv")


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_the_examples_are_what_the_model_says(desk: Desk, name: str) -> None:
    """One of each kind is run; `tools/render_examples.py` ran them all."""
    asked = desk if name == "moving-digits" else Desk(*load_model(name, device="cpu"), name)
    examples = library(name)
    assert len(examples) >= 6
    assert all(example.video.is_file() for example in examples)
    hurt, right = (next(e for e in examples if e.hurts is hurts) for hurts in (True, False))
    for example in (hurt, right):
        shown = said(asked, Request(example.video, example.text, frames=16))
        assert said_in(shown["full"]) == example.answer
        assert said_in(shown["merged"]) == example.holitom


def test_a_model_has_its_own_examples_and_no_others_answers() -> None:
    first, second = (library(name) for name in BUNDLED_MODELS)
    assert library(None) == first != second
    assert library(str(BUNDLED_MODELS["moving-digits-qwen"])) == second  # by its folder
    other = library("org/model")
    assert {(example.answer, example.hurts) for example in other} == {(None, False)}


def test_a_bundled_model_is_copied_in_a_way_that_each_program_knows(desk: Desk) -> None:
    loaded = Loaded("moving-digits-qwen")
    assert "load_model('moving-digits-qwen')" in python(DEMO, loaded)
    assert "--model moving-digits-qwen" in command(DEMO, loaded)
    served = vllm(DEMO, loaded, desk.model.config).splitlines()[-1]  # vLLM knows folders and ids alone
    echo = served.replace("vllm serve", "echo").replace("python -c", f"{sys.executable} -c")
    ran = subprocess.run(echo, shell=True, capture_output=True, text=True, check=True)
    assert ran.stdout.split()[0] == str(BUNDLED_MODELS["moving-digits-qwen"])


@pytest.mark.browser  # it needs Gradio, as the page does
def test_the_first_question_does_not_wait_for_matplotlib() -> None:
    """Before each event Gradio enters this block; it must have nothing left to load at the first."""
    code = (
        "import sys; from holitom.cli.web import settle_matplotlib; settle_matplotlib()\n"
        "from gradio.utils import MatplotlibBackendMananger as Block; before = set(sys.modules)\n"
        "with Block(): pass\n"
        "assert 'matplotlib.pyplot' not in sys.modules; print(sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("[]\n", 0), ran.stderr


@pytest.mark.browser  # it needs Gradio
def test_memory_does_not_grow_with_everybody_who_ever_came(desk: Desk) -> None:
    """Gradio keeps the controls and last results of each session; of more than `SESSIONS` the oldest go."""
    from holitom.web.page import SESSIONS, Limits, build, launch

    page = build(desk, Loaded(), Limits())
    launch(page, desk, "127.0.0.1", None, Limits())
    try:
        for number in range(SESSIONS + 5):
            page.state_holder[f"session {number}"]
        assert len(page.state_holder.session_data) == SESSIONS
        assert "session 0" not in page.state_holder
    finally:
        page.close(verbose=False)


@pytest.mark.slow
def test_memory_is_level_after_many_runs(desk: Desk) -> None:
    """The history is the only thing that a session keeps; 40 runs after the first 20 add less than 40 MB."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    history: History = ()
    for run in range(60):
        for shown in respond(desk, DEMO, Loaded(), history):
            history = shown.get("history", history)
        if run == 19:
            before = resident()
    assert len(history) == 50
    assert resident() - before < 40e6
