"""Answer many questions about video files with vLLM's engine in this process, without a server.

`holitom.video` reads videos while the engine works. Several questions share the engine's batches, and
questions about one video share its caches.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from holitom.bench.cases import Case, Record, Results
from holitom.bench.compare import alike
from holitom.errors import HolitomError, SettingsError
from holitom.hub import located
from holitom.integrations.vllm.settings import method_of
from holitom.models import config_of
from holitom.prompts import asking, at_least, rendered
from holitom.video import FramesBy, Sampling, Video, load_sampled

READERS = 2
"""Number of threads that read videos."""


class BadQuestionError(HolitomError):
    """A question that could not be asked: its video cannot be read, or the engine refuses it."""


@dataclass(frozen=True)
class Setup:
    """The model, the settings and the engine's arguments that answers are made with.

    Attributes:
        model: a checkpoint's folder or Hugging Face id.
        entry: the method's settings, as under `"holitom"` in `--hf-overrides`; None: full tokens.
        frames: number of frames to sample from each video.
        max_new_tokens: longest answer, in tokens.
        engine: more arguments of `vllm.LLM`, by name.
        at_once: largest number of questions that are in the engine, or read and waiting.
        frames_by: how frames are chosen, "time" or "change", see `holitom.video.FramesBy`.

    Raises:
        SettingsError: `frames` or `frames_by` is out of range.
    """

    model: str
    entry: Mapping[str, Any] | None
    frames: int
    max_new_tokens: int
    engine: Mapping[str, Any] = field(default_factory=dict)
    at_once: int = 32
    frames_by: FramesBy = "time"

    def __post_init__(self) -> None:
        _ = self.sampling  # raises an error for settings out of range

    @property
    def sampling(self) -> Sampling:
        """The frames to sample from each video."""
        return Sampling(self.frames, frames_by=self.frames_by)


def check(setup: Setup) -> None:
    """Check a setup before vLLM is imported or weights are read.

    Raises:
        ImportError: vLLM is not installed.
        SettingsError: the settings are wrong, or the method cannot work in vLLM.
        ModelError: there is no such model.
    """
    if find_spec("vllm") is None:
        raise ImportError(
            "holitom answer runs vLLM's engine, which is not installed: pip install 'holitom[vllm]' "
            "(holitom ask and holitom compare run without it)"
        )
    # vLLM logs to stdout unless it is told otherwise before it is imported.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    config = config_of(located(setup.model))
    config.holitom = None if setup.entry is None else dict(setup.entry)
    method_of(config)


class Engine:
    """vLLM's engine for one model.

    Args:
        setup: see there.

    Raises:
        HolitomError: vLLM or the plugin refuses the model or the settings.
    """

    def __init__(self, setup: Setup) -> None:
        from transformers import AutoProcessor
        from vllm.entrypoints.llm import LLM
        from vllm.sampling_params import SamplingParams

        given = dict(setup.engine)
        overrides = dict(given.pop("hf_overrides", {}))
        if setup.entry is not None:
            overrides["holitom"] = dict(setup.entry)
        place = located(setup.model)
        self.processor: Any = AutoProcessor.from_pretrained(place)
        usual = {"limit_mm_per_prompt": {"video": 1, "image": 0}, "seed": 0}
        try:
            self.engine: Any = LLM(place, hf_overrides=overrides, **{**usual, **given}).llm_engine
        except (ValueError, TypeError) as error:  # what pydantic makes of the plugin's errors too
            raise SettingsError(f"vLLM refuses this model or setting: {error}") from error
        self._sampling = SamplingParams(temperature=0, max_tokens=setup.max_new_tokens)

    def add(self, index: int, case: Case, video: Video) -> None:
        """Give the engine a question; `step` yields its answer with `index`.

        Raises:
            BadQuestionError: the engine refuses the question.
        """
        try:
            (text,) = rendered(self.processor, [asking(self.processor, case.question)])
            video = at_least(video, getattr(self.processor.video_processor, "temporal_patch_size", 1))
            metadata = {**video.metadata, "do_sample_frames": False}
            prompt = {"prompt": text, "multi_modal_data": {"video": [(video.frames, metadata)]}}
            self.engine.add_request(str(index), prompt, self._sampling)
        except (HolitomError, ValueError) as error:
            raise BadQuestionError(str(error)) from error

    def forget(self, asked: Collection[int]) -> None:
        """Abort the questions of these indices."""
        self.engine.abort_request([str(index) for index in asked])

    def step(self) -> Iterator[tuple[int, Record]]:
        """Run one step of the engine, and yield the finished answers, each with its question's index."""
        for output in self.engine.step():
            if output.finished:
                made = output.outputs[0]
                yield (
                    int(output.request_id),
                    {
                        "answer": made.text.strip(),
                        "prompt_tokens": len(output.prompt_token_ids),
                        "cached_tokens": output.num_cached_tokens or 0,
                        "new_tokens": len(made.token_ids),
                    },
                )


def answers(
    cases: Sequence[Case], setup: Setup, engine: Engine | None = None
) -> Generator[Record, None, None]:
    """Yield a record for each question, in order: its answer, or an error where it could not be asked.

    Args:
        cases: the questions.
        setup: the model, the settings and the engine's arguments.
        engine: the engine; None: one is started once a video has been read.

    Raises:
        HolitomError: the engine cannot be started.
    """
    given = 0  # records that have been yielded
    found: dict[int, Record] = {}
    running: set[int] = set()
    pool = ThreadPoolExecutor(READERS)
    videos = _Videos(cases, setup.sampling, pool)
    try:
        while given < len(cases):
            while videos.waiting and len(found) + len(running) < setup.at_once:
                if running and not videos.ready:
                    break  # the engine has work meanwhile
                index = videos.taken
                try:
                    video = videos.take()
                    engine = engine or Engine(setup)
                    engine.add(index, cases[index], video)
                    running.add(index)
                except BadQuestionError as error:
                    found[index] = {"error": str(error)}
            if engine is not None and running:
                for index, record in engine.step():
                    running.discard(index)
                    found[index] = record
            while given in found:
                yield found.pop(given)
                given += 1
    finally:
        pool.shutdown(cancel_futures=True)
        if engine is not None:
            engine.forget(running)


def answer(
    results: Results, setup: Setup, skip_bad: bool = False, notify: Callable[[int], None] = lambda index: None
) -> None:
    """Answer the open questions of `results`.

    Args:
        results: the file that records are appended to.
        setup: the model, the settings and the engine's arguments.
        skip_bad: whether a question that cannot be asked becomes an error in its record. Else the questions
            before it are answered, and then the error is raised.
        notify: called with the index of each question that is done.

    Raises:
        BadQuestionError: see `skip_bad`.
        HolitomError: the engine cannot be started.
    """
    left = results.open
    made = answers([results.cases[index] for index in left], setup)
    with closing(made):
        for index, record in zip(left, made, strict=True):
            case = results.cases[index]
            if "error" in record and not skip_bad:
                raise BadQuestionError(f"{case.video}: {record['error']}")
            if "answer" in record and case.answer is not None:
                record["right"] = alike(record["answer"], case.answer)
            results.add(index, record)
            notify(index)


class _Videos:
    """Reads the videos of questions ahead of time; successive questions about one video share it.

    Attributes:
        taken: number of questions whose videos were taken.
    """

    def __init__(self, cases: Sequence[Case], sampling: Sampling, pool: ThreadPoolExecutor) -> None:
        self.taken = 0
        self._cases, self._sampling, self._pool = cases, sampling, pool
        self._ahead: deque[Future[Video]] = deque()
        self._last: tuple[Path, Future[Video]] | None = None
        self._read_ahead()

    @property
    def waiting(self) -> bool:
        """Whether a video has not been taken yet."""
        return self.taken < len(self._cases)

    @property
    def ready(self) -> bool:
        """Whether the next video has been read."""
        return self._ahead[0].done()

    def take(self) -> Video:
        """Wait for the next video and return it.

        Raises:
            BadQuestionError: the video cannot be read.
        """
        future = self._ahead.popleft()
        self.taken += 1
        self._read_ahead()
        try:
            return future.result()
        except (HolitomError, OSError) as error:
            raise BadQuestionError(str(error)) from error

    def _read_ahead(self) -> None:
        while len(self._ahead) < min(2 * READERS, len(self._cases) - self.taken):
            path = self._cases[self.taken + len(self._ahead)].video
            if self._last is None or self._last[0] != path:
                self._last = path, self._pool.submit(load_sampled, path, self._sampling)
            self._ahead.append(self._last[1])


def summary(results: Results) -> dict[str, Any]:
    """Counts of questions, answered ones, right ones where that is known, and tokens; the errors."""
    done = [record for _, record in sorted(results.records.items())]
    answered = [record for record in done if "error" not in record]
    judged = [record["right"] for record in answered if "right" in record]
    return {
        "questions": len(results.cases),
        "answered": len(answered),
        "judged": len(judged),
        "right": sum(judged),
        "prompt_tokens": sum(record["prompt_tokens"] for record in answered),
        "new_tokens": sum(record["new_tokens"] for record in answered),
        "errors": [
            {"index": record["index"], "video": record["asked"]["video"], "error": record["error"]}
            for record in done
            if "error" in record
        ],
    }
