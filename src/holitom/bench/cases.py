"""Read a user's own questions about videos from a JSONL file, and keep the file of results.

Results are appended to the file, so that a run that was stopped can continue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from holitom.bundled import check_question
from holitom.errors import OutputError, SettingsError
from holitom.video import Sampling

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One question about one video.

    Attributes:
        video: the video file.
        question: the question.
        answer: the right answer; None: it is not known.
    """

    video: Path
    question: str
    answer: str | None = None


def read_cases(path: Path, missing: bool = False) -> list[Case]:
    """Read a JSONL file of questions: on each line an object with `video`, `question` and maybe `answer`.

    A relative `video` is relative to the file's folder. Other fields, such as an id, are passed over, unless
    their names are nearly those of the three or those of settings of `Sampling`, which are the command's.

    Args:
        path: path of the file.
        missing: whether a question is read although its video does not exist here; else that is an error.

    Raises:
        SettingsError: the file cannot be read, or a line has another form (the message gives its number).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
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
    _check_others(where, given)
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


def _check_others(where: str, given: Mapping[str, Any]) -> None:
    """Refuse fields that are not read though they look as if they were."""
    known = [each.name for each in fields(Case)]
    settings = [each.name for each in fields(Sampling)]
    for name in given:
        if name in settings:
            raise SettingsError(
                f'{where}: "{name}" cannot be set for one question; it is an option of the command, if any'
            )
        near = [] if name in known else get_close_matches(name.strip().lower(), known, 1, 0.75)
        if near:
            raise SettingsError(f'{where}: "{name}" is not read; is "{near[0]}" meant?')


class Results:
    """The file of results: a first line of settings, then one record for each question.

    Args:
        path: path of the file.
        made: settings that the answers are made with; a file with other settings is refused.
        cases: all questions.
        command: name of the command that writes the file.

    Raises:
        SettingsError: the file has other settings or questions, or is not a file of results.
        OutputError: it cannot be written.
    """

    def __init__(
        self, path: Path, made: Mapping[str, Any], cases: Sequence[Case], command: str = "holitom compare"
    ) -> None:
        self.path, self.cases = path, cases
        self.records: dict[int, Record] = {}
        self._head = head = json.dumps({command: made})
        other = SettingsError(
            f"{path} holds the answers of other settings, or none; remove it, or name another by --output"
        )
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
            first, *lines = whole.splitlines() or [head]
            if first != head or not (whole or head.startswith(text)):
                raise other  # before anything is written: it may be any file
            with path.open("a", encoding="utf-8"):
                pass  # so that a file that cannot be written is known before the first answer
            if text != (whole or head + "\n"):
                path.write_text(whole or head + "\n", encoding="utf-8")
        except UnicodeDecodeError as error:
            raise other from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
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
        """Indices of the questions without an answer; those that failed are among them."""
        return [i for i in range(len(self.cases)) if "error" in self.records.get(i, {"error": ""})]

    def add(self, index: int, found: Record) -> None:
        """Append the record of one question."""
        record = {"index": index, "asked": asked(self.cases[index]), **found}
        self.records[index] = record
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def put_in_order(self) -> None:
        """Rewrite the file with one record per question, in the order of the questions."""
        lines = [self._head, *(json.dumps(record) for _, record in sorted(self.records.items()))]
        made = self.path.with_name(f"{self.path.name}.new")
        made.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(made, self.path)


def asked(case: Case) -> Record:
    """A question as it is written in a record."""
    return {**asdict(case), "video": str(case.video)}
