"""Answer questions with merged and with full tokens, one run at a time for a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from transformers.generation.streamers import TextStreamer

from holitom.ask import Answer, Timed, ask, unknown_words
from holitom.bundled import check_question
from holitom.errors import HolitomError, SettingsError, VideoError
from holitom.inspect import Inspection
from holitom.inspect.collect import Watched, inspection_of_run
from holitom.inspect.pictures import Pictured, Pictures
from holitom.methods import Method
from holitom.methods.choose import Choice, read_method
from holitom.prompts import prompt
from holitom.video import FramesBy, Header, Sampling, Video, load_sampled, look_over
from holitom.video.fitting import fit_of
from holitom.web.controls import merging_inside, usual_threshold

MAX_FRAMES = 64
READING_SECONDS = 120.0

MOST_COMPARED = 4  # methods side by side


@dataclass(frozen=True)
class Request:
    """A user's question about a video, and the settings to answer it with.

    Attributes:
        video: the video file.
        question: the question, plain text.
        method: the method's name in `holitom.methods.METHODS`.
        retain_ratio: share of the visual tokens to keep.
        similarity_threshold: the method's threshold; None: its default. Ignored by methods without one.
        inner: whether the method merges inside the language model; None: its default, see `merging_inside`.
        frames: number of frames to sample.
        reuse: whether the vision tower computes only what differs from a reference frame.
        frames_by: how the frames are chosen, "time" or "change", see `holitom.video.FramesBy`.
    """

    video: Path
    question: str
    method: str = "holitom"
    retain_ratio: float = 0.1
    similarity_threshold: float | None = None
    inner: bool | None = None
    frames: int = 32
    reuse: bool = False
    frames_by: FramesBy = "time"

    @property
    def sampling(self) -> Sampling:
        """The frames to sample."""
        return Sampling(self.frames, frames_by=self.frames_by)

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings that are not its defaults."""
        usual = usual_threshold(self.method, self.retain_ratio)
        chosen: dict[str, Any] = {"retain_ratio": self.retain_ratio}
        if self.reuse:
            chosen["reuse"] = True
        if usual is not None and self.similarity_threshold not in (None, usual):
            chosen["similarity_threshold"] = float(self.similarity_threshold or 0)
        return chosen

    @property
    def changed_inner(self) -> bool | None:
        """`inner` where it differs from the method's default; else None."""
        usual, _ = merging_inside(self.method)
        return None if self.inner == usual else self.inner

    def chosen(self) -> Method:
        """Make the method of this request."""
        return read_method(self.method, self.settings, self.changed_inner).make()


@dataclass(frozen=True)
class Update:
    """One update of a running request.

    Attributes:
        status: text of the status line; None: unchanged.
        run: the run that the other fields describe: "merged", "full", or the name of a compared method.
        text: the answer so far.
        timed: the complete answer, with its seconds from the file on.
        inspection: the fates of the tokens, of a complete run.
        refused: the reason why a compared method cannot run.
    """

    status: str | None = None
    run: str | None = None
    text: str | None = None
    timed: Timed | None = None
    inspection: Inspection | None = None
    refused: str | None = None


class _Gone(Exception):  # noqa: N818  (no error: it ends a run that nobody waits for)
    """Ends a run whose user has left the page."""


class _Streamed(TextStreamer):
    """A streamer that passes on the answer so far with each word."""

    def __init__(self, tokenizer: Any, hand_on: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._hand_on, self._text = hand_on, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._text += text
        self._hand_on(self._text.strip())


@dataclass(frozen=True)
class _Turn:
    """One request whose video was read.

    Attributes:
        video: the sampled frames, in the size that goes into the model.
        pictures: pictures of these frames, to draw on.
        reading: seconds that it took to read them.
        tell: passes an update to the user.
        gone: set once the user no longer waits.
    """

    video: Video
    pictures: Pictures
    reading: float
    tell: Callable[[Update], None]
    gone: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raise `_Gone` if the user no longer waits."""
        if self.gone.is_set():
            raise _Gone


class Desk:
    """One model and the queue of requests to it.

    A method is attached to the model while it answers, so one thread runs the requests in the order in which
    they came. The threads of the requests read videos meanwhile.

    Args:
        model: a model of a supported family.
        processor: the model's own processor.
        title: name of the model on the page.
        max_new_tokens: longest answer, in tokens.
        max_seconds: longest video, in seconds.
        banner: a note on what the model can do, shown above its answers.

    Attributes:
        frames_per_step, tokens_per_step: number of frames of a step and of visual tokens of a step, in the
            last video; the ratios that methods can meet depend on them.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        title: str,
        max_new_tokens: int = 64,
        max_seconds: float = 600.0,
        banner: str | None = None,
    ) -> None:
        self.model, self.processor, self.title, self.banner = model, processor, title, banner
        self.max_new_tokens, self.max_seconds = max_new_tokens, max_seconds
        self.frames_per_step, self.tokens_per_step = 1, 49
        self._runs = ThreadPoolExecutor(1, thread_name_prefix="holitom-model")

    def look_over(self, video: Path) -> Header:
        """Check a video file without decoding it; return its length and size.

        Raises:
            VideoError: the file cannot be read, or is too long.
        """
        return look_over(video, self.max_seconds)

    def answers(self, request: Request) -> Iterator[Update]:
        """Answer with merged tokens, then with full tokens.

        The merged answer comes first, so that the costs of a first run do not count for full tokens. Closing
        the iterator ends the run.

        Raises:
            HolitomError: there is no such video, question or method; nothing is computed then.
        """
        method = request.chosen()
        yield from self._queued(request, lambda turn: self._both(turn, request, method))

    def compared(self, request: Request, methods: Sequence[str]) -> Iterator[Update]:
        """Answer the question of `request` with several methods in turn, at its ratio and its reuse.

        A method that cannot meet them is refused by an update that says why; the others run. Closing the
        iterator ends the run.

        Raises:
            HolitomError: there is no such video, question or method, or not 2 to 4 methods.
        """
        if not 2 <= len(methods) <= MOST_COMPARED or len(set(methods)) < len(methods):
            raise SettingsError(f"choose 2 to {MOST_COMPARED} different methods to compare")
        settings = {"reuse": True} if request.reuse else {}
        choices = {name: read_method(name, settings) for name in methods}
        yield from self._queued(request, lambda turn: self._each(turn, request, choices))

    def close(self) -> None:
        """Refuse further requests."""
        self._runs.shutdown(wait=False, cancel_futures=True)

    def _queued(self, request: Request, run: Callable[[_Turn], None]) -> Iterator[Update]:
        """Read the video, wait for the model, and yield the updates of `run`."""
        check_question(request.question)
        if not 1 <= request.frames <= MAX_FRAMES:
            raise SettingsError(f"frames must be from 1 to {MAX_FRAMES}, not {request.frames}")
        yield Update("Reading the video")
        began = time.perf_counter()
        video, pictures = self._read(request)
        news: SimpleQueue[Update | None] = SimpleQueue()
        turn = _Turn(video, pictures, time.perf_counter() - began, news.put)
        job = self._runs.submit(self._run, run, turn)
        job.add_done_callback(lambda _: news.put(None))
        try:
            yield Update("Waiting for the model")
            while (update := news.get()) is not None:
                yield update
            if job.cancelled():
                raise HolitomError("the server is ending, so the question is not answered")
            job.result()  # raises what the run raised
        finally:
            turn.gone.set()
            job.cancel()

    def _read(self, request: Request) -> tuple[Video, Pictures]:
        """Read the video in the size that goes into the model, with pictures of its frames."""
        if not request.video.is_file():
            raise VideoError(
                "the video is no longer here (uploads are kept for a while only): choose it again"
            )
        ends = time.monotonic() + READING_SECONDS

        def watch(_: int, __: int) -> None:
            if time.monotonic() > ends:
                raise VideoError(
                    f"{request.video.name}: reading it takes more than {READING_SECONDS / 60:g} minutes: "
                    "make it shorter or smaller"
                )

        fit = Pictured(fit_of(self.processor))
        video = load_sampled(request.video, request.sampling, watch, self.max_seconds, fit)
        return video, fit.pictures(video)

    @staticmethod
    def _run(run: Callable[[_Turn], None], turn: _Turn) -> None:
        with suppress(_Gone):
            turn.check()
            run(turn)

    def _answered(self, turn: _Turn, run: str, method: Method, inputs: Any, preprocessing: float) -> Answer:
        """Answer once; pass on the answer so far, then its seconds, counted as `holitom ask` does."""

        def hand_on(text: str) -> None:
            turn.check()
            turn.tell(Update(run=run, text=text))

        streamer = _Streamed(self.processor.tokenizer, hand_on)
        answer = ask(self.model, self.processor, inputs, method, self.max_new_tokens, streamer)
        video = answer.report.videos[0]
        self.frames_per_step, self.tokens_per_step = video.frames_per_step, video.tokens_per_step
        turn.tell(Update(run=run, text=answer.text, timed=Timed(turn.reading, preprocessing, answer)))
        return answer

    def _prompted(self, turn: _Turn, request: Request) -> tuple[Any, float]:
        """Make the model's inputs; return them and the seconds of the processor."""
        began = time.perf_counter()
        inputs = prompt(self.processor, turn.video, request.question)
        return inputs, time.perf_counter() - began

    def _drawn(self, turn: _Turn, request: Request, watched: Watched, answer: Answer) -> Inspection:
        found = inspection_of_run(self.model, turn.video, watched, answer.report, turn.pictures)
        return replace(
            found,
            title=request.video.name,
            model=self.title,
            question=request.question,
            answer=answer.text,
            banner=self.banner,
        )

    def _both(self, turn: _Turn, request: Request, method: Method) -> None:
        inputs, seconds = self._prompted(turn, request)
        watched = Watched(method)
        turn.tell(Update("Answering with merged tokens", "merged", text=""))
        merged = self._answered(turn, "merged", watched, inputs, seconds)
        turn.tell(Update("Answering with full tokens", "full", text=""))
        full = self._answered(turn, "full", Method(retain_ratio=1), inputs, seconds)
        turn.tell(Update("Drawing"))
        drawn = self._drawn(turn, request, watched, merged)
        same = "the same" if merged.text == full.text else "another"
        said = f"Done: {same} answer from {merged.visual_tokens:,} of {full.visual_tokens:,} visual tokens"
        if merged.visual_tokens == full.visual_tokens and merged.last_layer is not None:
            said += f", {merged.remaining_tokens:,} of them from layer {merged.last_layer} on"
        said += "."
        if unknown_words(self.processor, request.question):
            said += " The model does not know some words of the question, so it may not mean much to it."
        turn.tell(Update(said, inspection=drawn))

    def _each(self, turn: _Turn, request: Request, choices: Mapping[str, Choice]) -> None:
        inputs, seconds = self._prompted(turn, request)
        for name, choice in choices.items():
            turn.tell(Update(f"Answering with {name}", run=name))
            try:
                watched = Watched(choice.make(request.retain_ratio))
                answer = self._answered(turn, name, watched, inputs, seconds)
            except HolitomError as error:
                turn.tell(Update(run=name, refused=str(error)))
                continue
            turn.tell(Update(run=name, inspection=self._drawn(turn, request, watched, answer)))
        turn.tell(Update("Done."))
