"""More video for the same tokens: what a long video shows, what is sampled of it, and equal cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from holitom.bench import moving_digits as md
from holitom.bench.long_videos import groups, sampled
from holitom.bench.questions import held_out_questions
from holitom.bench.settings import FULL
from holitom.cli import main
from holitom.errors import SettingsError
from holitom.methods.choose import read_methods


def test_a_long_video_has_cuts_anywhere_and_a_needle_of_one_frame() -> None:
    shortest = []
    for index in range(6):
        video = md.sample("long", index, 64)
        assert video.frames.shape == (64, md.SIDE, md.SIDE, 3)
        assert 2 <= video.scenes <= md.MAX_SCENES
        lengths = np.bincount(video.scene)
        assert lengths.min() >= md.MIN_SCENE_FRAMES
        shortest.append(lengths.min())
        (flash,) = video.flashes
        assert flash.stop - flash.start == 1
        assert not np.array_equal(video.frames[0], md.sample("test", index, 64).frames[0])
    assert min(shortest) < 10 < max(shortest)
    again = md.sample("long", 3, 64)
    assert np.array_equal(again.frames, md.sample("long", 3, 64).frames)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 6, 7])
def test_a_long_video_may_be_short(frames: int) -> None:
    for index in range(8):
        scene = md.sample("long", index, frames).scene
        assert len(scene) == frames
        assert scene[-1] <= max(0, frames // md.MIN_SCENE_FRAMES - 1)


def test_long_questions_are_of_long_videos() -> None:
    items = held_out_questions(2, ("needle", "scenes"), split="long", frames=64)
    assert [item.task for item in items].count("needle") == 2
    for item in items:
        assert item[1:] in [tuple(question) for question in md.sample("long", item.video, 64).questions]
    assert items != held_out_questions(2, ("needle", "scenes"))


def test_frames_are_the_middles_of_equal_parts_and_know_their_times() -> None:
    video = sampled(5, 4, 64)
    assert np.array_equal(video.frames, md.sample("long", 5, 64).frames[[8, 24, 40, 56]])
    assert list(video.metadata.frames_indices or ()) == [8, 24, 40, 56]
    assert video.times == [1, 3, 5, 7]  # 64 frames last 8 seconds
    assert np.array_equal(sampled(5, 64, 64).frames, md.sample("long", 5, 64).frames)


def test_every_group_has_the_budget_of_the_whole_frames() -> None:
    found = groups(read_methods("holitom-plus,evs"), [128, 32], 16, [64])
    assert [group.frames for group in found] == [16, 32, 64, 128]
    assert found[0].settings == [FULL]
    assert found[2].settings == [FULL]
    for group in (found[1], found[3]):
        for setting in group.settings:
            assert setting.method is not None
            assert setting.retain_ratio * group.frames == 16
            assert setting.method.merged_count(group.frames, 49) == 16 * 49


@pytest.mark.parametrize(
    ("methods", "frames", "message"),
    [("holitom", [16], "above 16"), ("holitom[retain_ratio=0.5]", [32], "gives the budget")],
)
def test_groups_that_cannot_be_compared(methods: str, frames: list[int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        groups(read_methods(methods), frames)


def test_the_command_answers_and_reports_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    command = ["bench", "long-videos", "--length", "64", "--whole", "2", "--frames", "8", "--per-task", "1"]
    command += ["--methods", "holitom-plus,dycoke", "--tasks", "needle,scenes", "--dtype", "float32"]
    assert main([*command, "--output", str(folder)]) == 0
    table = capfd.readouterr().out
    found = json.loads((folder / "results.json").read_text())
    full, merged, *_ = found["settings"]
    assert (full["frames"], merged["frames"]) == (2, 8)
    assert full["visual_tokens"] == merged["visual_tokens"] == 2 * 49 + 1
    assert merged["tower_operations"] > 4 * full["tower_operations"]  # four times the frames, and reading
    assert len((folder / "8-frames" / "holitom-plus@0.25.jsonl").read_text().splitlines()) == 1 + 2
    assert "Methods send as many visual tokens as 2 frames" in " ".join(table.split())
    picture = (folder / "accuracy_vs_frames.svg").read_bytes()
    assert main(["bench", "long-videos", "--report", str(folder)]) == 0
    assert capfd.readouterr().out == table
    assert (folder / "accuracy_vs_frames.svg").read_bytes() == picture
    assert main(["bench", "long-videos", "--report", str(folder), "--markdown"]) == 0
    assert capfd.readouterr().out.startswith("|  | frames | text | tower | GFLOPs |")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "32"], "length must be in 64..256"),
        (["--frames", "300"], "frames must be in 1..256"),
        (["--frames", "many"], "numbers of frames"),
        (["--frames", "16"], "above 16"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--report", "nowhere"], "nowhere/results.json: no such file"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "long-videos", *arguments]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
