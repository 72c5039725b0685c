"""The model that lmms-eval runs: it answers messages about video files, with one method attached."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from holitom.ask import load_model
from holitom.errors import HolitomError, SettingsError, UnsupportedUsageError, VideoError
from holitom.integrations.lmms_eval import contract
from holitom.integrations.lmms_eval.arguments import read_arguments
from holitom.integrations.lmms_eval.generation import Generation, Until
from holitom.integrations.lmms_eval.messages import Question, read_messages
from holitom.models import adapter_for
from holitom.prompts import prompts
from holitom.video import Video, load_sampled
from holitom.video.fitting import fit_of

try:
    contract.check()
    from accelerate import Accelerator
    from lmms_eval.api.instance import GenerationResult, TokenCounts
    from lmms_eval.api.model import lmms
    from lmms_eval.models.model_utils.gen_metrics import log_metrics
    from tqdm import tqdm
except ImportError as missing:
    raise ImportError(
        f"lmms-eval is needed for `--model holitom` ({missing}): pip install 'holitom[lmms-eval]'"
    ) from missing


class HolitomModel(lmms):  # type: ignore[misc]  # lmms-eval is not typed
    """`--model holitom --model_args pretrained=...,method=holitom,retain_ratio=0.1`.

    `arguments.py` lists all arguments. Under `accelerate launch` every process holds the whole model on its
    own device and answers its share of the questions.

    Raises:
        SettingsError: an argument is unknown or out of range.
        ModelError, UnsupportedModelError: the checkpoint cannot be loaded, or there is no adapter for it.
        UnsupportedUsageError: accelerate is set up to shard the model.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._arguments = arguments = read_arguments(given)
        self.accelerator = Accelerator()
        self._rank = int(self.accelerator.process_index)
        self._world_size = int(self.accelerator.num_processes)
        template = None if arguments.chat_template is None else _read_template(arguments.chat_template)
        model, processor = load_model(
            arguments.pretrained,
            arguments.dtype,
            self._own_device(),
            arguments.device_map,
            arguments.attn_implementation,
        )
        if template is not None:
            processor.chat_template = template
        self._model, self._processor = model, processor
        self._adapter: Any = adapter_for(model)
        self._run: Any = None if arguments.method is None else arguments.method.attach(model)

    @property
    def batch_size(self) -> int:
        return self._arguments.batch_size

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device if hasattr(self, "_model") else self.accelerator.device
        return device

    def clean(self) -> None:
        """Release the model; lmms-eval calls this when all questions are answered."""
        if self._run is not None:
            self._run.detach()
        self._run = self._adapter = None
        super().clean()

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise UnsupportedUsageError(
            "holitom answers by generating; choose the task's variant with output_type generate_until"
        )

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, one `GenerationResult` for each, in their order.

        Requests with the same generation arguments are answered `batch_size` at a time.
        """
        self._check_files(requests)
        alike: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            given = contract.arguments_of(request)[2]
            alike.setdefault(json.dumps(given, sort_keys=True, default=str), []).append(index)
        results: list[Any] = [None] * len(requests)
        with Tally(self.rank, len(requests)) as tally:
            for indices in alike.values():
                generation = Generation.read(contract.arguments_of(requests[indices[0]])[2])
                questions = (self._question(requests[index]) for index in indices)
                read = _ahead(self._read, questions, self._arguments.readers)
                for start in range(0, len(indices), self.batch_size):
                    batch = indices[start : start + self.batch_size]
                    rows = [next(read) for _ in batch]
                    for index, result in zip(batch, self._answer(rows, generation, tally), strict=True):
                        results[index] = result
        return results

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Answer requests of several rounds; the task makes each round's messages from the answers so far."""
        with Tally(self.rank, len(requests)) as tally:
            return [self._all_rounds(request, tally) for request in requests]

    def _all_rounds(self, request: Any, tally: Tally) -> list[str]:
        _, messages_of, given, doc_id, task, split = contract.arguments_of(request)
        doc, name = self.task_dict[task][split][doc_id], f"{task}, document {doc_id}"
        generation = Generation.read(given)
        answers: list[str] = []
        messages, info = messages_of(doc), None
        while True:
            row = self._read(read_messages(name, messages))
            answers.append(self._answer([row], generation, tally)[0].text)
            following = messages_of(
                doc, round_idx=len(answers), previous_output=list(answers), previous_round_info=info
            )
            if not (isinstance(following, tuple) and len(following) == 4):
                return answers  # a task of one round
            messages, done, _, info = following
            if done:
                return answers

    # From requests to questions.

    def _question(self, request: Any) -> Question:
        _, messages_of, _, doc_id, task, split = contract.arguments_of(request)
        return read_messages(f"{task}, document {doc_id}", messages_of(self.task_dict[task][split][doc_id]))

    def _check_files(self, requests: Sequence[Any]) -> None:
        """Raise a `VideoError` for a missing video file before any question is answered.

        Tasks whose first request has no video are skipped, since their documents may be large images.
        """
        without: set[str] = set()
        for request in requests:
            task = contract.arguments_of(request)[4]
            if task in without:
                continue
            question = self._question(request)
            if not question.videos:
                without.add(task)
            for path in question.videos:
                if not path.exists():
                    raise VideoError(f"{question.name}: {path}: no such file")

    def _read(self, question: Question) -> tuple[Question, list[Video]]:
        try:
            sampling, fit = self._arguments.sampling, fit_of(self._processor)
            return question, [load_sampled(path, sampling, fit=fit) for path in question.videos]
        except VideoError as error:
            raise VideoError(f"{question.name}: {error}") from error

    # From questions to answers.

    def _answer(
        self, rows: Sequence[tuple[Question, list[Video]]], generation: Generation, tally: Tally
    ) -> list[Any]:
        """Answer a batch; rows whose videos differ in frames run separately, since they cannot be stacked."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, (_, videos) in enumerate(rows):
            by_shape.setdefault(tuple(sorted({len(video.frames) for video in videos})), []).append(index)
        results: list[Any] = [None] * len(rows)
        for indices in by_shape.values():
            some = [rows[index] for index in indices]
            try:
                answers = self._generate(some, generation, tally)
            except (HolitomError, ValueError) as error:
                names = "; ".join(question.name for question, _ in some)
                raise UnsupportedUsageError(f"{names}: {error}") from error
            for index, answer in zip(indices, answers, strict=True):
                results[index] = answer
        return results

    def _generate(
        self, rows: Sequence[tuple[Question, list[Video]]], generation: Generation, tally: Tally
    ) -> list[Any]:
        inputs = prompts(
            self._processor,
            [question.conversation for question, _ in rows],
            [video for _, videos in rows for video in videos],
            [question.images for question, _ in rows if question.images],
        ).to(self._model.device, self._model.dtype)
        ids, pad = inputs["input_ids"], self._processor.tokenizer.pad_token_id
        arguments = dict(generation.arguments)
        if generation.stops:
            arguments["stopping_criteria"] = [
                Until(self._processor.tokenizer, generation.stops, ids.shape[1])
            ]
        before = None if self._run is None else self._run.last
        began = time.perf_counter()
        with torch.inference_mode():
            new = self._model.generate(**inputs, **arguments)[:, ids.shape[1] :].cpu()
        seconds = time.perf_counter() - began
        full = sent = int(self._adapter.placeholders(ids).sum())
        if self._run is not None and self._run.last is not before:
            sent = sum(video.sent for video in self._run.last.videos)
        asked = inputs["attention_mask"].sum(1).tolist()
        answered = (new != pad).sum(1).tolist()
        tally.add(len(rows), seconds, sum(answered), full, sent)
        said = self._processor.batch_decode(new, skip_special_tokens=True)
        return [
            GenerationResult(generation.cut(text), TokenCounts(input_tokens=read, output_tokens=written))
            for text, read, written in zip(said, asked, answered, strict=True)
        ]

    def _own_device(self) -> str:
        """The device of this process; with several processes, the device that accelerate assigns it."""
        wanted = self._arguments.device
        if self._world_size == 1:
            return wanted
        kind = self.accelerator.distributed_type.name
        if not kind.startswith("MULTI_"):
            raise UnsupportedUsageError(
                f"accelerate is set up for {kind}; holitom runs one whole model a process "
                "(accelerate launch --multi_gpu), or one model over several devices with device_map=auto"
            )
        own = self.accelerator.device
        if self._arguments.device_map is not None or wanted not in ("auto", own.type):
            raise SettingsError(
                f"with several processes each has its own device ({own}); leave device and device_map out"
            )
        return str(own)


class Tally:
    """A progress bar that counts one call's seconds and tokens, and logs them as lmms-eval's throughput."""

    def __init__(self, rank: int, requests: int) -> None:
        self._bar: Any = tqdm(total=requests, disable=rank != 0, desc="Model Responding")
        self._requests = self._new_tokens = self._full = self._sent = 0
        self._seconds = 0.0

    def __enter__(self) -> Tally:
        return self

    def add(self, requests: int, seconds: float, new_tokens: int, full: int, sent: int) -> None:
        """Count a batch.

        Args:
            requests: number of requests.
            seconds: seconds of `generate`.
            new_tokens: tokens of the answers.
            full: visual tokens of the unmerged prompts.
            sent: visual tokens that went into the language model.
        """
        self._bar.update(requests)
        self._requests += requests
        self._seconds += seconds
        self._new_tokens += new_tokens
        self._full += full
        self._sent += sent

    def __exit__(self, failed: object, *_: object) -> None:
        self._bar.close()
        if failed is not None or not self._requests:
            return
        log_metrics(
            total_elapsed_time=self._seconds,
            total_gen_tokens=self._new_tokens,
            avg_speed=self._new_tokens / max(self._seconds, 1e-9),
            additional_metrics={
                "visual_tokens": self._sent / self._requests,
                "visual_tokens_full": self._full / self._requests,
            },
        )


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise SettingsError(f"chat_template {path}: {error.strerror}") from error


def _ahead(function: Callable[[Question], Any], items: Iterator[Question], workers: int) -> Iterator[Any]:
    """`map` with `workers` threads that run at most `workers` items ahead of the consumer."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Any]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
