"""Merging stays light: few operations, one wait for the device, whatever the video's length."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import holitom
from holitom.bench.overhead import Count, count_operations, synthetic_video
from holitom.cli.overhead import print_overhead
from holitom.methods import HoliTom
from holitom.ops.host import to_host
from holitom.tokens import VideoTokens


def outer(frames: int, dtype: torch.dtype = torch.float32, method: HoliTom | None = None) -> Count:
    video = synthetic_video(frames, width=896, dtype=dtype)
    return count_operations(lambda: (method or HoliTom(retain_ratio=0.10)).merge(video))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outer_stage_is_launch_lean_at_any_length(dtype: torch.dtype) -> None:
    short, long = outer(32, dtype), outer(128, dtype)
    assert short == long
    assert short.operations <= 200
    assert short.synchronisations <= 2


@pytest.mark.parametrize(
    "method",
    [
        HoliTom(retain_ratio=0.10, contextual_ratio=0.4),
        HoliTom(retain_ratio=0.10, budget="exact"),
        HoliTom(retain_ratio=0.90, budget="exact"),
    ],
)
def test_no_setting_adds_operations_for_each_frame(method: HoliTom) -> None:
    short, long = outer(32, method=method), outer(128, method=method)
    assert short == long
    assert short.synchronisations <= 2


def test_the_counter_sees_what_makes_a_gpu_wait() -> None:
    values = torch.arange(4)

    def waits() -> None:
        values.sum().item()
        values.nonzero()
        values[values > 1]
        to_host(values)
        torch.bincount(values)
        torch.repeat_interleave(values)

    assert count_operations(waits).synchronisations == 6
    assert count_operations(lambda: values[values] + 1) == Count(operations=2, synchronisations=0)


def test_the_door_to_the_host_is_the_only_one() -> None:
    # What the counter cannot see on a CPU, where these are free: no file reads the device by the way.
    package = Path(holitom.__path__[0])
    peeks = re.compile(r"\.(item|tolist|cpu|numpy|nonzero|masked_select)\(|to\(\"cpu\"")
    for folder in ("ops", "methods"):
        for file in (package / folder).glob("*.py"):
            if file.name != "host.py":
                assert not peeks.search(file.read_text()), f"{file.name} reads the device"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_count() -> None:
    video = synthetic_video(32, width=896)
    on_gpu = VideoTokens(video.features.cuda(), video.importance.cuda(), video.grid)
    HoliTom(retain_ratio=0.10).merge(on_gpu)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as waits:
            merged = HoliTom(retain_ratio=0.10).merge(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) <= 2
    on_cpu = HoliTom(retain_ratio=0.10).merge(video)
    assert merged.segments == on_cpu.segments
    assert len(merged.features) == len(on_cpu.features)


def test_the_table_names_every_figure_and_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "outer stage: tensor operations", "value": 181, "unit": "", "limit": 200}]
    print_overhead({"machine": "this one", "video": "synthetic", "rows": rows})
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("outer stage: tensor operations", "181", "200", "this one"))
