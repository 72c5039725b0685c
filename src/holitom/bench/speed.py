"""Time each setting from the video file to its tokens, beside full tokens, in one process.

A round runs every setting once, full tokens among them, every other round in reverse, so that a machine
that slows down slows them all; ratios are taken within a round. The file is loaded once per round by
transformers' loader, for full tokens, and once by this library, for the methods. Settings that do not change
the vision tower share one run of it per round (one in all where time is short); each method's reading of the
tower's attention is timed for itself. Settings with reuse, or that merge frames in the tower, run the tower
themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from holitom.bench.encoding import Encodings
from holitom.bench.loading import Load, Loading, stock_loader
from holitom.bench.machine import describe, peak_memory
from holitom.bench.settings import FULL, Setting
from holitom.bench.shared import run_of_tower
from holitom.bench.timings import Row, Speed, Timing
from holitom.errors import SettingsError
from holitom.methods import Method
from holitom.runtime import Report

MOST_ROUNDS = 7
WORTH_WARMING = 3  # rounds for which there must still be time, or the first one counts

Notify = Callable[[str], None]


@torch.inference_mode()
def measure(
    model: Any,
    inputs: Mapping[str, Any],
    short: Mapping[str, Any],
    settings: Sequence[Setting],
    loading: Loading,
    new_tokens: int = 16,
    repeats: int | None = None,
    deadline: float | None = None,
    notify: Notify = lambda doing: None,
) -> Speed:
    """Time `settings` on one prompt.

    Before the timed rounds every setting runs once on `short`. The first whole round is a warm-up too
    if, by its own time, as many rounds as requested (or 3) still fit before the deadline.

    Args:
        model: a model without an attached method.
        inputs: the processor's inputs of one row with one video.
        short: inputs of the same prompt with one frame.
        settings: the settings, full tokens first (see `budgets`). Those that are refused, or that refuse the
            model or the video, are left out and reported.
        loading: the file that `inputs` were made from.
        new_tokens: number of tokens to generate, at least 2; no answer ends before.
        repeats: number of timed rounds. None: as many as end before `deadline`, from 1 to 7.
        deadline: a time of `time.monotonic`; None: no deadline.
        notify: called with a line of text before each step.

    Raises:
        VideoError: transformers' loader cannot read the file.
    """
    rows = [Row(setting) for setting in settings if not setting.refused]
    refused = {setting.title: setting.refused for setting in settings if setting.refused}
    attention = model.config.get_text_config()._attn_implementation
    dtype = str(model.dtype).removeprefix("torch.")
    machine = describe(model.device) | {"dtype": dtype, "attention": attention}
    speed = Speed(machine, new_tokens, rows, refused, stock_loader())

    notify("warm-up on one frame")
    _warm_up(model, _moved(short, model), rows)
    rounds = _Rounds(model, _moved(inputs, model), loading, notify, speed)
    rounds.encode()
    rounds.take()
    speed.warm_up_round = rounds.end_before(deadline, repeats or WORTH_WARMING, again=True)
    if speed.warm_up_round:
        speed.encodings = 0
        for row in rows:
            row.timings.clear()
    while speed.rounds < (repeats or MOST_ROUNDS):
        if repeats is None and speed.rounds and not rounds.end_before(deadline, 1, speed.warm_up_round):
            break
        if speed.warm_up_round:
            rounds.encode()
        rounds.take()
    return speed


def _warm_up(model: Any, short: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Run every setting on the inputs `short`."""
    encodings = Encodings(model, short)
    for row in rows:
        with suppress(SettingsError):  # one frame may be too few; a whole video decides
            _run(model, encodings, row.setting, 2, Load(0.0, 0.0))


@dataclass
class _Rounds:
    """The rounds of a measurement.

    Attributes:
        model: the model.
        inputs: the processor's inputs, where the model is.
        loading: the file that they were made from.
        notify: called with a line of text before each step.
        speed: the measurement, which each round adds to.
        encodings: the latest runs of the vision tower.
        longest: seconds of the longest round so far, without those runs.
    """

    model: Any
    inputs: Mapping[str, Any]
    loading: Loading
    notify: Notify
    speed: Speed
    encodings: Encodings = field(init=False)
    longest: float = 0.0

    def encode(self) -> None:
        """Run the vision tower."""
        self.notify("vision tower")
        self.encodings = Encodings(self.model, self.inputs)
        self.speed.encodings += 1
        self.speed.vision_peak = self.encodings.stock.peak

    def take(self) -> None:
        """Run every setting once; one that the model or the video rules out is removed from the rows."""
        began, number, rows = time.monotonic(), self.speed.rounds, self.speed.rows
        stock, own = self._load(number)
        for row in rows[:: -1 if number % 2 else 1]:
            self.notify(f"round {number + 1}: {row.setting.title}")
            loaded = stock if row.setting is FULL else own
            try:
                timing, report = _run(self.model, self.encodings, row.setting, self.speed.new_tokens, loaded)
            except SettingsError as error:
                if row.setting is FULL:
                    raise
                self.speed.refused[row.setting.title] = str(error)
                rows.remove(row)
                continue
            row.add(timing, report)
            if row.setting is FULL:
                self.speed.video = (report.videos[0].steps, report.videos[0].tokens_per_step)
                self.speed.prompt_tokens = report.prompt_tokens[0]
        self.longest = max(self.longest, time.monotonic() - began)

    def _load(self, number: int) -> tuple[Load, Load]:
        """Seconds of loading by transformers' loader and by this library, which begin in turn."""
        self.notify(f"round {number + 1}: loading {self.loading.file.name}")
        if number % 2:
            own = self.loading.own()
            return self.loading.stock(), own
        return self.loading.stock(), self.loading.own()

    def end_before(self, deadline: float | None, rounds: int, again: bool) -> bool:
        """Whether `rounds` more rounds end before `deadline`, with the vision tower `again` in each."""
        encoding = self.encodings.stock.seconds + self.encodings.attached.seconds
        one = self.longest + (encoding if again else 0)
        return deadline is None or time.monotonic() + rounds * one <= deadline


def _run(
    model: Any, encodings: Encodings, setting: Setting, new_tokens: int, load: Load
) -> tuple[Timing, Report]:
    """Time one setting on the prompt of `encodings`."""
    encoding = encodings.of(setting)
    method = setting.method or Method(retain_ratio=1)  # full tokens through the same hooks, on the same clock
    # A tower in batches is not replayed: it would be given the whole output for each batch.
    shares = run_of_tower(method) == run_of_tower(None) and method.tower_batch is None
    with (
        peak_memory(model.device) as peak,
        encoding.replayed() if shares else nullcontext(),
        method(model) as run,
    ):
        tokens = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        model.generate(**encodings.inputs, **tokens, do_sample=False)
        report = run.last
        assert report is not None, "the prompt holds a video"
        seconds, inner = report.seconds, report.inner_seconds
    timing = Timing(
        load=load,
        vision=encoding.seconds if shares else seconds["vision"],
        attention=seconds["vision"] if shares else 0.0,
        outer=seconds["merging"] - inner,
        inner=inner,
        prefill=seconds["prefill"],
        decoding=seconds["decoding"],
        peak=peak.bytes if shares else None,
    )
    return timing, report


def _moved(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """`inputs` where the model is, real numbers in its precision."""
    return {
        name: part.to(model.device, model.dtype if part.is_floating_point() else None)
        for name, part in inputs.items()
    }
