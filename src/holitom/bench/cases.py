"""A user's own questions about videos in a JSONL file, and the file of answers, in which a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holitom.bundled import check_question
from holitom.errors import OutputError, SettingsError

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One question about one video.

    Attributes:
        video: the file.
        question: about it.
        answer: the right one, where it is known.
    """

    video: Path
    question: str
    answer: str | None = None


def read_cases(path: Path, missing: bool = False) -> list[Case]:
    """The questions in a JSONL file: an object with `video`, `question` and maybe `answer` on each line.

    A relative `video` is looked for beside the file.

    Args:
        path: of the file.
        missing: whether a video may be missing here; else that is an error.

    Raises:
        SettingsError: the file cannot be read, or a line is not written so (the message says which).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not valid UTF-8; it must be a JSONL file of questions") from error
    cases = [
        _case(f"{path}, line {number}", line, path.parent, missing)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not cases:
        raise SettingsError(
            f'{path}: no questions; a line is {{"video": "a.mp4", "question": "What happens?"}}'
        )
    return cases


def _case(where: str, line: str, folder: Path, missing: bool) -> Case:
    example = 'an object such as {"video": "a.mp4", "question": "What happens?", "answer": "..."}'
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{where}: no JSON; it must be {example}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{where}: it must be {example}")
    for name in ("video", "question"):
        if not isinstance(given.get(name), str):
            raise SettingsError(f'{where}: "{name}" is missing or no text; it must be {example}')
    if not isinstance(given.get("answer"), str | None):
        raise SettingsError(f'{where}: "answer" is no text; leave it out where none is known')
    try:
        check_question(given["question"])
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    video = folder / given["video"]
    if not missing and not video.is_file():
        raise SettingsError(f"{where}: {video}: no such file")
    return Case(video, given["question"], given.get("answer"))


class Results:
    """The file of results: its first line says how the answers were made, the others are one a question.

    Args:
        path: of the file.
        made: how the answers are made; a file that was made otherwise is refused.
        cases: all questions.
        command: that writes the file.

    Raises:
        SettingsError: the file was made otherwise, from other questions, or is no such file.
        OutputError: it cannot be written.
    """

    def __init__(
        self, path: Path, made: Mapping[str, Any], cases: Sequence[Case], command: str = "holitom compare"
    ) -> None:
        self.path, self.cases = path, cases
        self.records: dict[int, Record] = {}
        self._head = head = json.dumps({command: made})
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
            if not whole:
                path.write_text(head + "\n", encoding="utf-8")
                return
            if whole != text:
                path.write_text(whole, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        first, *lines = whole.splitlines()
        if first != head:
            raise SettingsError(
                f"{path} holds the answers of other settings, or none; remove it, or name another by --output"
            )
        for number, line in enumerate(lines, 2):
            try:
                record = json.loads(line)
                index = int(record["index"])
            except (ValueError, KeyError, TypeError) as error:
                raise SettingsError(f"{path}, line {number}: no answer of this command; remove it") from error
            if index >= len(cases) or record.get("asked") != asked(cases[index]):
                raise SettingsError(
                    f"{path} holds the answers to other questions; remove it, or name another by --output"
                )
            self.records[index] = record

    @property
    def open(self) -> list[int]:
        """Which questions are still to be answered; those that failed are tried again."""
        return [i for i in range(len(self.cases)) if "error" in self.records.get(i, {"error": ""})]

    def add(self, index: int, found: Record) -> None:
        """Append what was found for one question."""
        record = {"index": index, "asked": asked(self.cases[index]), **found}
        self.records[index] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def put_in_order(self) -> None:
        """Write the file anew, one record a question, in the order of the questions."""
        lines = [self._head, *(json.dumps(record) for _, record in sorted(self.records.items()))]
        made = self.path.with_name(f"{self.path.name}.new")
        made.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(made, self.path)


def asked(case: Case) -> Record:
    """A question as it stands in a record."""
    return {**asdict(case), "video": str(case.video)}
