"""Time each setting from the video file to its tokens, beside full tokens, in one process.

A round runs every setting once, full tokens among them, every other round in reverse, so that a machine
that slows down slows them all; ratios are taken within a round. The file is loaded once per round by
transformers' loader, for full tokens, and once by this library, for the methods. Settings that do not change
the vision tower share one run of it per round (one in all where time is short); each method's reading of the
tower's attention is timed for itself. Settings with reuse, or that merge frames in the tower, run the tower
themselves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

import torch

from holitom.bench.loading import Load, Loading, stock_loader
from holitom.bench.machine import describe, peak_memory
from holitom.bench.settings import FULL, Setting
from holitom.bench.shared import encoder_arguments, run_of_tower
from holitom.errors import SettingsError
from holitom.methods import Method
from holitom.models import adapter_for
from holitom.runtime import Report
from holitom.runtime.report import mark, seconds_between
from holitom.wrapping import Wrapped

MOST_ROUNDS = 7
WORTH_WARMING = 3  # rounds for which there must still be time, or the first one counts


class Timing(NamedTuple):
    """One setting in one round, in seconds.

    Attributes:
        load: from the file to the inputs.
        vision: vision tower and projector.
        attention: reading the tower's attention, for methods that need it; 0 where it is part of `vision`.
        outer: merging before the language model.
        inner: merging inside it.
        prefill: language model, without `inner`.
        decoding: all new tokens after the first.
        peak: bytes of memory above what was in use, from `attention` to the last token; None where unknown
            or where the tower ran meanwhile.
    """

    load: Load
    vision: float
    attention: float
    outer: float
    inner: float
    prefill: float
    decoding: float
    peak: int | None

    @property
    def merging(self) -> float:
        """Seconds of merging, before the language model and inside it."""
        return self.outer + self.inner

    @property
    def language(self) -> float:
        """Seconds of the language model up to the first token, inner merging included."""
        return self.prefill + self.inner

    @property
    def ttft(self) -> float:
        """Time to first token, without reading the video file and the processor."""
        return self.vision + self.attention + self.merging + self.prefill

    @property
    def whole(self) -> float:
        """Seconds from the file to the first token."""
        return self.ttft + sum(self.load)

    def to_dict(self) -> dict[str, Any]:
        """The seconds and the memory peak, for JSON."""
        parts = {name: value for name, value in self._asdict().items() if name != "load"}
        return {**self.load._asdict(), **parts, "ttft": self.ttft, "file_to_first_token": self.whole}


class Ratio(NamedTuple):
    """A ratio taken once per round: its median, minimum and maximum."""

    median: float
    least: float
    most: float


@dataclass
class Row:
    """A setting's timings, one per round, and its tokens and bytes, which are the same in every round.

    Attributes:
        computed: share of the vision tower that reuse computes; None without reuse.
    """

    setting: Setting
    timings: list[Timing] = field(default_factory=list)
    visual_tokens: int = 0
    kv_bytes: int = 0
    computed: float | None = None

    def median(self, of: Callable[[Timing], float]) -> float:
        return statistics.median(map(of, self.timings))

    def over(self, other: Row, of: Callable[[Timing], float]) -> Ratio:
        """The ratio of `of` for this setting to `of` for `other`, both in the same round."""
        each = [of(mine) / of(its) for mine, its in zip(self.timings, other.timings, strict=True)]
        return Ratio(statistics.median(each), min(each), max(each))

    def share(self, of: Callable[[Timing], float]) -> float:
        """Share of the time to first token."""
        return self.median(lambda timing: of(timing) / timing.ttft)

    @property
    def peak(self) -> int | None:
        """The highest peak of all rounds, in bytes."""
        return max((timing.peak for timing in self.timings if timing.peak is not None), default=None)


@dataclass
class Speed:
    """The result of a measurement.

    Attributes:
        machine: the machine (`machine.describe`), and the model's dtype and attention.
        new_tokens: number of tokens that every setting generated; no answer ends before.
        rows: the settings, full tokens first.
        refused: reasons of the settings that could not run, by title.
        loader: transformers' loader, for full tokens.
        video: number of frames, and number of visual tokens of each frame.
        prompt_tokens: number of tokens of the prompt with full tokens.
        warm_up_round: whether a whole untimed round ran before the timed ones.
        encodings: number of timed runs of the vision tower that settings share.
        vision_peak: bytes of memory that the vision tower took; None where unknown.
    """

    machine: dict[str, Any]
    new_tokens: int
    rows: list[Row]
    refused: dict[str, str]
    loader: str
    video: tuple[int, int] = (0, 0)
    prompt_tokens: int = 0
    warm_up_round: bool = False
    encodings: int = 0
    vision_peak: int | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.rows[0].timings)

    def decode_rate(self, row: Row) -> float:
        """Tokens per second after the first token."""
        return (self.new_tokens - 1) / row.median(lambda timing: timing.decoding)

    def inner_ratios(self) -> dict[float, Ratio]:
        """By retain ratio, HoliTom's prefill with inner merging over HoliTom w/o M's prefill."""
        found = {(row.setting.name, row.setting.retain_ratio): row for row in self.rows}
        return {
            ratio: row.over(found["holitom-outer", ratio], lambda timing: timing.language)
            for (name, ratio), row in found.items()
            if name == "holitom" and ("holitom-outer", ratio) in found
        }

    def speedups(self, row: Row) -> dict[str, Ratio]:
        """How many times faster than full tokens."""
        full = self.rows[0]
        return {
            "file_to_first_token": full.over(row, lambda timing: timing.whole),
            "ttft": full.over(row, lambda timing: timing.ttft),
            "prefill": full.over(row, lambda timing: timing.language),
            "decoding": full.over(row, lambda timing: timing.decoding),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything that `holitom bench speed --json` prints of it."""
        return {
            "machine": self.machine,
            "frames": self.video[0],
            "tokens_per_frame": self.video[1],
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "rounds": self.rounds,
            "warm_up_round": self.warm_up_round,
            "vision_timings": self.encodings,
            "stock_loader": self.loader,
            "vision_peak_bytes": self.vision_peak,
            "settings": [
                {
                    "setting": row.setting.title,
                    "method": row.setting.name,
                    "retain_ratio": row.setting.retain_ratio,
                    "visual_tokens": row.visual_tokens,
                    "kv_cache_bytes": row.kv_bytes,
                    "peak_bytes": row.peak,
                    "tower_computed": row.computed,
                    "rounds": [timing.to_dict() for timing in row.timings],
                    "merging_share": row.share(lambda timing: timing.merging),
                    "attention_share": row.share(lambda timing: timing.attention),
                    "decode_tokens_per_second": self.decode_rate(row),
                    "speedup": {part: ratio._asdict() for part, ratio in self.speedups(row).items()},
                }
                for row in self.rows
            ],
            "inner_prefill_ratio": {f"{at:g}": ratio._asdict() for at, ratio in self.inner_ratios().items()},
            "refused": self.refused,
        }


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
    notify: Callable[[str], None] = lambda doing: None,
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
    inputs, short = _moved(inputs, model), _moved(short, model)
    rows = [Row(setting) for setting in settings if not setting.refused]
    refused = {setting.title: setting.refused for setting in settings if setting.refused}
    attention = model.config.get_text_config()._attn_implementation
    dtype = str(model.dtype).removeprefix("torch.")
    machine = describe(model.device) | {"dtype": dtype, "attention": attention}
    speed = Speed(machine, new_tokens, rows, refused, stock_loader())

    notify("warm-up on one frame")
    encoding = Encodings(model, short)
    for row in rows:
        with suppress(SettingsError):  # one frame may be too few; a whole video decides
            _run(model, encoding, short, row.setting, 2, Load(0.0, 0.0))

    def encode() -> Encodings:
        notify("vision tower")
        encodings = Encodings(model, inputs)
        speed.encodings += 1
        speed.vision_peak = encodings.stock.peak
        return encodings

    def load(number: int) -> tuple[Load, Load]:
        """Seconds of loading by transformers' loader and by this library, which begin in turn."""
        notify(f"round {number + 1}: loading {loading.file.name}")
        if number % 2:
            own = loading.own()
            return loading.stock(), own
        return loading.stock(), loading.own()

    def take_round() -> float:
        began, before = time.monotonic(), speed.rounds
        stock, own = load(before)
        for row in rows[:: -1 if before % 2 else 1]:
            notify(f"round {before + 1}: {row.setting.title}")
            try:
                loaded = stock if row.setting is FULL else own
                timing, report = _run(model, encoding, inputs, row.setting, new_tokens, loaded)
            except SettingsError as error:
                if row.setting is FULL:
                    raise
                speed.refused[row.setting.title] = str(error)
                rows.remove(row)
                continue
            row.timings.append(timing)
            row.visual_tokens = sum(video.visual for video in report.videos)
            row.kv_bytes = report.kv_bytes
            row.computed = None if report.reuse is None else report.reuse.computed_share
            if row.setting is FULL:
                speed.video = (report.videos[0].steps, report.videos[0].tokens_per_step)
                speed.prompt_tokens = report.prompt_tokens[0]
        return time.monotonic() - began

    encoding = encode()
    longest = take_round()

    def ends_in_time(rounds: int, again: bool) -> bool:
        """Whether `rounds` more rounds end before the deadline, with the vision tower `again` in each."""
        one = longest + (encoding.stock.seconds + encoding.attached.seconds if again else 0)
        return deadline is None or time.monotonic() + rounds * one <= deadline

    speed.warm_up_round = ends_in_time(repeats or WORTH_WARMING, again=True)
    if speed.warm_up_round:
        speed.encodings = 0
        for row in rows:
            row.timings.clear()
    while speed.rounds < (repeats or MOST_ROUNDS):
        if repeats is None and speed.rounds and not ends_in_time(1, speed.warm_up_round):
            break
        if speed.warm_up_round:
            encoding = encode()
        longest = max(longest, take_round())
    return speed


class Encodings:
    """The runs of the vision tower on a prompt's video that settings share.

    Attributes:
        stock: the stock model's.
        attached: with a method attached; the same run where nothing of the encoder is replaced then.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        self.stock = self.attached = Encoding(model, inputs)
        adapter = adapter_for(model)
        replaced = adapter.replaced() if model.device.type == "cuda" else {}
        if replaced:
            wrapped = [Wrapped(adapter.trunk, name, instead) for name, instead in replaced.items()]
            self.attached = Encoding(model, inputs)
            for each in wrapped:
                each.release()

    def of(self, setting: Setting) -> Encoding:
        """The run that `setting` uses."""
        return self.stock if setting.method is None else self.attached


class Encoding:
    """What the vision tower makes of a prompt's video, once, for all settings.

    `bench.shared` reads what any method needs while it encodes; here each method reads for itself, so that
    its time is known.

    Attributes:
        seconds: that it took.
        peak: bytes of memory that it took; None where unknown.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        adapter = adapter_for(model)
        self._trunk: Any = adapter.trunk
        self._encoder = adapter.encoder
        read: list[Any] = [adapter.vision_attention]
        if adapter.early:
            read.append(adapter.reading(adapter.shallow_layer).vision_attention)
        encode: Any = getattr(adapter.trunk, adapter.encoder)
        given = encoder_arguments(adapter, inputs)
        calls: list[Any] = []

        def see(module: Any, args: Any, kwargs: Any) -> None:
            calls.append((module, args, kwargs))

        with ExitStack() as hooks, peak_memory(model.device) as peak:
            for attention in dict.fromkeys(read):
                hooks.enter_context(attention.register_forward_pre_hook(see, with_kwargs=True))
            began = mark(model.device)
            output = encode(**given, return_dict=True)
            self.seconds = seconds_between(began, mark(model.device))
        self.peak = peak.bytes
        # Every layer's output is among the rest: gigabytes that nobody reads again.
        self._output = type(output)(
            **{name: part for name, part in output.items() if name != "hidden_states"}
        )
        self._calls = calls

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Give the model what was encoded inside the block; methods still read their attention."""
        encode, output = getattr(self._trunk, self._encoder), self._output

        @wraps(encode)
        def get_features(*args: Any, **kwargs: Any) -> Any:
            for attention, given, named in self._calls:
                attention.forward = wraps(attention.forward)(lambda *args, **kwargs: None)  # hooks, no more
                try:
                    attention(*given, **named)
                finally:
                    del attention.forward
            return type(output)(**output)

        setattr(self._trunk, self._encoder, get_features)
        try:
            yield
        finally:
            self._trunk.__dict__.pop(self._encoder, None)


def _run(
    model: Any,
    encodings: Encodings,
    inputs: Mapping[str, Any],
    setting: Setting,
    new_tokens: int,
    load: Load,
) -> tuple[Timing, Report]:
    encoding = encodings.of(setting)
    method = setting.method or Method(retain_ratio=1)  # full tokens through the same hooks, on the same clock
    # A tower in batches is not replayed: it would be given the whole output for each batch.
    shares = run_of_tower(method) == run_of_tower(None) and method.tower_batch is None
    with (
        peak_memory(model.device) as peak,
        encoding.replayed() if shares else nullcontext(),
        method(model) as run,
    ):
        model.generate(**inputs, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
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
