"""Where a checkpoint is found, and how soon and clearly one that is not is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from holitom.errors import ModelError
from holitom.hub import located


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let the hub answer a question about a model with what is set; the cache is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def set_answer(answer: BaseException | None) -> None:
        def model_info(*_: object, **__: object) -> None:
            if answer is not None:
                raise answer

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)

    return set_answer


class HubIsAskedError(BaseException):
    """Not caught by what takes any exception for a missing network."""


def missing() -> Exception:
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    Exception.__init__(error, "404")
    return error


def cached(folder: Path) -> Path:
    """A copy of org/name as the hub's library keeps it."""
    model = folder / "cache" / "models--org--name"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_a_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert located(str(tmp_path)) == str(tmp_path)


def test_an_id_that_the_hub_has(answers: Any) -> None:
    answers(None)
    assert located("org/name") == "org/name"


def test_an_id_that_the_hub_does_not_have(answers: Any) -> None:
    answers(missing())
    with pytest.raises(ModelError, match=r"model org/mistyped: .* has no such model"):
        located("org/mistyped")


def test_without_a_network_the_cached_copy_is_taken(answers: Any, tmp_path: Path) -> None:
    answers(ConnectionError("no route"))
    snapshot = cached(tmp_path)
    assert located("org/name") == str(snapshot)


def test_without_a_network_and_a_copy_the_error_is_one_line_at_once(answers: Any) -> None:
    answers(ConnectionError("no route"))
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"org/mistyped: no such .* cannot be reached") as error:
        located("org/mistyped")
    assert time.monotonic() - began < 5
    assert "\n" not in str(error.value)


def test_offline_mode_sends_no_request(answers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(HubIsAskedError())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        located("org/name")
    snapshot = cached(tmp_path)
    assert located("org/name") == str(snapshot)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt2", "no such folder, and no hub id, which is written owner/name"),
        ("./gone", "no such folder, and no hub id"),
        ("~/gone", "no such folder, and no hub id"),
        ("/gone/model", "no such folder, and no hub id"),
        ("a/b/c", "no such folder, and no hub id"),
        ("a b/c", "no such folder, and no hub id"),
        ("https://huggingface.co/org/name", "is a URL; give the hub id, owner/name, such as org/name"),
        ("https://example.org/x.safetensors", "is a URL; give the hub id, owner/name, or a folder"),
    ],
)
def test_what_is_no_id_is_never_asked_for(answers: Any, name: str, says: str) -> None:
    answers(HubIsAskedError())
    with pytest.raises(ModelError, match=says):
        located(name)
