"""Files of answers, one for each setting, to which answers are appended so that a killed run can continue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from holitom.bench.questions import Item
from holitom.bench.settings import Setting
from holitom.costs.decoder import Level
from holitom.errors import HolitomError, SettingsError
from holitom.version import __version__


class ResultsError(HolitomError, ValueError):
    """A results file belongs to another model, question set or setting, or is not a results file."""


class Answered(NamedTuple):
    """One answer, and the visual tokens (with newlines) in the language model's layers."""

    said: str
    levels: tuple[Level, ...]


@dataclass
class Answers:
    """One setting's answers so far, and their file: a line of model, questions and setting, then the answers.

    Attributes:
        setting: the setting.
        path: path of the file, JSONL.
        done: the answers in the file, in the order of the questions.
    """

    setting: Setting
    path: Path
    done: list[Answered]

    @classmethod
    def open(
        cls, setting: Setting, folder: Path, mark: dict[str, Any], batches: Sequence[Sequence[Item]]
    ) -> Answers:
        """Open the setting's file in `folder`, and cut it behind the last complete batch.

        Args:
            setting: the setting.
            folder: an existing folder.
            mark: identity of model and questions, which the file's first line must have.
            batches: all questions, in the batches in which they will be asked.

        Raises:
            ResultsError: it was written for another model, question set or setting.
        """
        path = folder / f"{setting.slug}.jsonl"
        mark = {**mark, "setting": repr(setting.method)}
        before = path.read_text() if path.exists() else ""
        whole = before[: before.rfind("\n") + 1]  # a run that was killed may have left half a line
        lines = whole.splitlines(keepends=True)
        if lines:
            _check(path, lines[0], mark)
        done = [_answered(path, line) for line in lines[1:]]
        ends = np.cumsum([0, *map(len, batches)])
        if len(done) > ends[-1]:
            raise ResultsError(f"{path} holds more answers than there are questions: remove it")
        count = int(ends[ends <= len(done)][-1])
        kept = "".join([json.dumps(mark) + "\n", *lines[1 : 1 + count]])
        if kept != before:
            path.write_text(kept)
        return cls(setting, path, done[:count])

    def add(self, batch: list[Answered]) -> None:
        """Append a batch of answers, to the file first."""
        with self.path.open("a") as file:
            file.write("".join(json.dumps(answer) + "\n" for answer in batch))
        self.done += batch


def identity(model: Any, items: Sequence[Item]) -> dict[str, Any]:
    """Identify the model's weights, the questions and the code, which all results of a folder must share."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().float().sum().double().cpu().numpy().tobytes())
    return {
        "model": weights.hexdigest()[:16],
        "dtype": str(model.dtype).removeprefix("torch."),
        "questions": hashlib.sha256(json.dumps(items).encode()).hexdigest()[:16],
        "versions": {
            "holitom": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        },
    }


def make_folder(folder: Path) -> None:
    """Make the folder of a benchmark's answers.

    Raises:
        SettingsError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"output folder {folder}: {error.strerror}") from error


def check_folder(folder: Path, mark: dict[str, Any]) -> None:
    """Raise a `ResultsError` for a folder with answers of another model or to other questions."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as file:
            first = file.readline()
        if first.endswith("\n"):  # a run that was killed may have left half a line
            _check(path, first, mark)


def _check(path: Path, line: str, mark: dict[str, Any]) -> None:
    try:
        found = dict(json.loads(line))
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path} is no file of this benchmark's answers: remove it") from error
    check_mark(path, found, mark)


def check_mark(path: Path, found: dict[str, Any], mark: dict[str, Any]) -> None:
    """Raise a `ResultsError` unless `found`, the mark of the file `path`, has all entries of `mark`."""
    if other := [key for key, value in mark.items() if found.get(key) != value]:
        raise ResultsError(
            f"{path} holds results of another run (not the same {', '.join(other)}): remove it, or choose "
            "another output folder"
        )


def _answered(path: Path, line: str) -> Answered:
    try:
        said, levels = json.loads(line)
        first, *others = (Level(int(start), int(tokens)) for start, tokens in levels)
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path} holds a line that is no answer, {line.strip()!r}: remove it") from error
    return Answered(str(said), (first, *others))
