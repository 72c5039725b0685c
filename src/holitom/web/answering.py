"""A question with and without merging, as it is answered: one run at a time for a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, Literal

from transformers.generation.streamers import TextStreamer

from holitom.ask import Answer, ask, unknown_words
from holitom.bundled import check_question
from holitom.errors import SettingsError, VideoError
from holitom.inspect import Inspection
from holitom.inspect.collect import Watched, inspection_of_run
from holitom.methods import Method
from holitom.methods.choose import read_method
from holitom.methods.registry import method_class
from holitom.prompts import prompt
from holitom.video import Header, Video, load_video, look_over

MAX_FRAMES = 64
READING_SECONDS = 120.0

Run = Literal["merged", "full"]


@dataclass(frozen=True)
class Request:
    """What a user asks.

    Attributes:
        video: the file.
        question: about it.
        method: its name in `holitom.methods.METHODS`.
        retain_ratio: share of the visual tokens to keep.
        similarity_threshold: ignored by methods that have none.
        inner: whether it merges inside the language model too, see `merging_inside`; None: as it comes.
        frames: how many to sample.
    """

    video: Path
    question: str
    method: str = "holitom"
    retain_ratio: float = 0.1
    similarity_threshold: float | None = None
    inner: bool | None = None
    frames: int = 32

    @property
    def settings(self) -> dict[str, float]:
        """Of the method, those that are not what it takes by itself."""
        usual = usual_threshold(self.method, self.retain_ratio)
        chosen = {"retain_ratio": self.retain_ratio}
        if usual is not None and self.similarity_threshold not in (None, usual):
            chosen["similarity_threshold"] = float(self.similarity_threshold or 0)
        return chosen

    @property
    def changed_inner(self) -> bool | None:
        """`inner` where it is not what the method does by itself; else None."""
        usual, _ = merging_inside(self.method)
        return None if self.inner == usual else self.inner

    def chosen(self) -> Method:
        """The method that is asked for."""
        return read_method(self.method, self.settings, self.changed_inner).make()


def merging_inside(method: str) -> tuple[bool, bool]:
    """Whether a method merges inside the language model by itself, and whether it can do otherwise."""
    usual = method_class(method)().merges_inside
    try:
        read_method(method, inner=not usual)
    except SettingsError:
        return usual, False
    return usual, True


def usual_threshold(method: str, retain_ratio: float) -> float | None:
    """The similarity threshold that a method takes by itself; None where it has none."""
    found = method_class(method)
    if "similarity_threshold" not in {field.name for field in fields(found)}:
        return None
    made: Any = found(retain_ratio)
    return float(getattr(made, "threshold", made.similarity_threshold))


@dataclass(frozen=True)
class Update:
    """What is new.

    Attributes:
        status: what is going on, or None: as before.
        run: which of the two `text` and `answer` are of.
        text: the answer as far as it is there.
        answer: once it is complete.
        inspection: what became of the tokens, once it is known.
    """

    status: str | None = None
    run: Run | None = None
    text: str | None = None
    answer: Answer | None = None
    inspection: Inspection | None = None


class _Gone(Exception):  # noqa: N818  (no error: it ends a run that nobody waits for)
    """Whoever asked has left."""


class _Streamed(TextStreamer):
    """Hands on the answer as far as it is there."""

    def __init__(self, tokenizer: Any, hand_on: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._hand_on, self._text = hand_on, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._text += text
        self._hand_on(self._text.strip())


class Desk:
    """One model, and whoever asks it.

    A method is attached to the model while it answers, so runs go through one thread, in the order they came;
    videos are read meanwhile by the threads of those who ask.

    Args:
        model: that holitom supports.
        processor: its own.
        title: what to call the model.
        max_new_tokens: longest answer.
        max_seconds: longest video.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        title: str,
        max_new_tokens: int = 64,
        max_seconds: float = 600.0,
    ) -> None:
        self.model, self.processor, self.title = model, processor, title
        self.max_new_tokens, self.max_seconds = max_new_tokens, max_seconds
        self._runs = ThreadPoolExecutor(1, thread_name_prefix="holitom-model")

    def look_over(self, video: Path) -> Header:
        """What kind of video it is.

        Raises:
            VideoError: it cannot be read, or is too long.
        """
        return look_over(video, self.max_seconds)

    def answers(self, request: Request) -> Iterator[Update]:
        """Both answers as they come, the merged one first: what a first run costs is not on full tokens.

        Closing the iterator ends the run.

        Raises:
            HolitomError: there is no such video, question or method; nothing is computed then.
        """
        check_question(request.question)
        method = request.chosen()
        if not 1 <= request.frames <= MAX_FRAMES:
            raise SettingsError(f"frames must be from 1 to {MAX_FRAMES}, not {request.frames}")
        yield Update("Reading the video")
        video = self._read(request)

        news: SimpleQueue[Update | None] = SimpleQueue()
        gone = Event()
        job = self._runs.submit(self._run, request, video, method, news.put, gone)
        job.add_done_callback(lambda _: news.put(None))
        try:
            yield Update("Waiting for the model")
            while (update := news.get()) is not None:
                yield update
            job.result()  # raises what the run raised
        finally:
            gone.set()
            job.cancel()

    def close(self) -> None:
        """Take no more questions."""
        self._runs.shutdown(wait=False, cancel_futures=True)

    def _read(self, request: Request) -> Video:
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

        return load_video(request.video, request.frames, watch, self.max_seconds)

    def _run(
        self,
        request: Request,
        video: Video,
        method: Method,
        tell: Callable[[Update], None],
        gone: Event,
    ) -> None:
        def answered(run: Run, how: Method) -> Answer:
            def hand_on(text: str) -> None:
                if gone.is_set():
                    raise _Gone
                tell(Update(run=run, text=text))

            streamer = _Streamed(self.processor.tokenizer, hand_on)
            answer = ask(self.model, self.processor, inputs, how, self.max_new_tokens, streamer)
            tell(Update(run=run, text=answer.text, answer=answer))
            return answer

        if gone.is_set():
            return
        inputs = prompt(self.processor, video, request.question)
        watched = Watched(method=method)
        try:
            tell(Update("Answering with merged tokens"))
            merged = answered("merged", watched)
            tell(Update("Answering with full tokens"))
            full = answered("full", Method(retain_ratio=1))
        except _Gone:
            return
        tell(Update("Drawing"))
        drawn = inspection_of_run(
            self.model,
            video,
            watched,
            merged.report,
            title=request.video.name,
            name=self.title,
            question=request.question,
            answer=merged.text,
        )
        same = "the same" if merged.text == full.text else "another"
        said = f"Done: {same} answer from {merged.visual_tokens:,} of {full.visual_tokens:,} visual tokens"
        if merged.visual_tokens == full.visual_tokens and merged.last_layer is not None:
            said += f", {merged.remaining_tokens:,} of them from layer {merged.last_layer} on"
        said += "."
        if unknown_words(self.processor, request.question):
            said += " The model does not know some words of the question, so it may not mean much to it."
        tell(Update(said, inspection=drawn))
