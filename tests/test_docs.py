"""README and the pages under docs/: links lead somewhere, public names have a page, shown commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import docs_pages
import pytest
import typer

import holitom
from holitom.cli.app import app
from holitom.methods import METHODS, get_method

ROOT = docs_pages.ROOT
PAGES = {str(file.relative_to(ROOT)): file.read_text() for file in docs_pages.pages()}
HOLITOM: Any = typer.main.get_command(app)
each_page = pytest.mark.parametrize("page", PAGES)


def unresolved(page: str, text: str) -> list[str]:
    """The links of `text`, as of the file `page`, that lead nowhere."""
    lost = []
    for link in docs_pages.links(text):
        try:
            file, heading = docs_pages.file_of(link[0], ROOT / page)
        except FileNotFoundError:
            lost.append(link[0])
            continue
        if heading and heading not in docs_pages.anchors(file.read_text()):
            lost.append(link[0])
    return lost


@each_page
def test_links_lead_somewhere(page: str) -> None:
    assert unresolved(page, PAGES[page]) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "[a](no.md), [b](design.md#no), ![c](images/no.png), `[code](no.md)`, [d](design.md#methods)"
    assert unresolved("docs/video.md", text) == ["no.md", "design.md#no", "images/no.png"]


def test_links_lead_to_the_same_file_on_the_site(tmp_path: Path) -> None:
    docs_pages.gather(tmp_path)
    seen = 0
    for file, place in docs_pages.pages().items():
        for link in docs_pages.links((tmp_path / place).read_text()):
            path = link[0].partition("#")[0]
            assert not path or (tmp_path / place).parent.joinpath(path).resolve().is_file(), (file, link[0])
            seen += 1
    assert seen > 50


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"- (?:[^:\n]+: )?([\w./-]+\.md)$", nav, flags=re.MULTILINE)
    assert sorted(listed) == sorted(docs_pages.pages().values())


def documented() -> list[object]:
    """The objects that a page of the reference describes."""
    found: list[object] = []
    for text in PAGES.values():
        for path in re.findall(r"^::: (holitom\S*)$", text, flags=re.MULTILINE):
            parent, _, name = path.rpartition(".")
            module = import_module(parent)
            found.append(getattr(module, name) if hasattr(module, name) else import_module(path))
    return found


def test_every_public_name_has_a_page() -> None:
    described = documented()
    missing = {
        name
        for name in holitom.__all__
        if name != "__version__" and not any(getattr(holitom, name) is each for each in described)
    }
    assert missing == set()


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a page: lines of its blocks, and what stands in single backticks."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r" *\\\n *", " ", block).splitlines()]
    inline = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", inline)]
    for line in lines:
        if not re.match(r" *(\$ )?(holitom|make|python|pip) ", line):
            continue
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:  # a quotation that goes on in the next line
            words = line.split()
        end = next((at for at, word in enumerate(words) if word in {"|", "||", "&&", ">", "then"}), None)
        yield words[:end]


def wrong_with(words: list[str]) -> str | None:
    """What is wrong with a `holitom` command line, by the command's own parser; None: nothing."""
    command, arguments = HOLITOM, words[1:]
    while arguments and (inner := getattr(command, "commands", {}).get(arguments[0])) is not None:
        command, arguments = inner, arguments[1:]
    if hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        return f"no command {arguments[0]}"
    context = command.context_class(command, info_name=command.name)
    try:
        _, left, _ = command.make_parser(context).parse_args([a for a in arguments if a != "..."])
    except Exception as error:
        named = str(error).endswith("requires an argument.")  # prose may name an option without a value
        return None if named else str(error)
    return f"superfluous {left}" if left else None


@each_page
def test_shown_commands_are_taken(page: str) -> None:
    for words in commands(PAGES[page]):
        if words[0] == "holitom":
            assert wrong_with(words) is None, " ".join(words)


@each_page
def test_shown_targets_and_tools_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for words in commands(PAGES[page]):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        if words[0] == "python" and words[1].endswith(".py") and "/" in words[1]:
            assert (ROOT / words[1]).is_file(), words
        if words[0] == "python" and words[1] == "-m" and words[2].startswith("holitom"):
            assert import_module(words[2])


@pytest.mark.parametrize(
    "line",
    [
        "holitom aks",
        "holitom ask --retian 0.1",
        "holitom bench sped",
        "holitom compare a b",
        "holitom ask -o",
    ],
)
def test_a_command_that_is_not_taken_is_found(line: str) -> None:
    assert wrong_with(line.split()) is not None


@each_page
def test_shown_imports_resolve(page: str) -> None:
    blocks = "".join(re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL))
    for module, names in re.findall(r"^from (holitom[\w.]*) import ([^(\n]+)$", blocks, flags=re.MULTILINE):
        for name in names.split(","):
            assert hasattr(import_module(module), name.strip()), (module, name)


def test_the_page_of_choosing_knows_what_merges_inside() -> None:
    text = " ".join(PAGES["docs/choosing-a-method.md"].split())
    stated = re.findall(r"## Inside the language model (.*?) have stages inside the language model", text)[0]
    classes = {type(get_method(name)).__name__ for name in METHODS if get_method(name).merges_inside}
    assert {name.replace("+", "Plus") for name in re.split(r", | and ", stated)} == classes


def rows_of(page: str, first: str, part: int = 1) -> dict[str, list[str]]:
    """The cells of the rows of `page`'s table whose head begins with `first`, by their first cell."""
    table = PAGES[page].split(f"\n{first}")[part].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("model", [1, 2])
def test_the_page_of_choosing_has_the_figures_of_the_leaderboard(model: int) -> None:
    measured = rows_of("docs/results/leaderboard/README.md", "|  | 25%", model)
    names = {"HoliTom+": "HoliTomPlus"}
    told = rows_of("docs/choosing-a-method.md", "| | 25%", model)
    assert len(told) > 15
    for name, row in told.items():
        shares = [re.sub(r"^([\d.]+) .*", r"\1%", share) for share in measured[names.get(name, name)]]
        assert row == shares, name
    assert rows_of("docs/results.md", "|  | 25%", model) == measured


def test_figures_that_stand_on_several_pages_are_the_same() -> None:
    measured = rows_of("docs/results/accuracy/README.md", "|  | tower")
    shares = {name: row[-2] for name, row in measured.items()}
    costs = re.findall(
        r"^HoliTom (\d+%) .* @18 +([\d.]+) .* ([\d.]+)$", PAGES["docs/results.md"], re.MULTILINE
    )
    by_ratio = {ratio: (tflops, megabytes) for ratio, tflops, megabytes in costs}
    for ratio, row in rows_of("README.md", "| | of full accuracy").items():
        if ratio != "full tokens":
            tflops, megabytes = by_ratio[ratio]
            accuracy = [shares[f"HoliTom {ratio}"], shares[f"HoliTomPlus {ratio}"]]
            assert row == [*accuracy, f"{tflops} TFLOPs", f"{megabytes} MB"]


FOLDERS = [ROOT / name for name in ("src", "tests", "tools", "docs")]
FILES = [f"/{file.name}" for file in ROOT.iterdir()]
FILES += [f"/{file.relative_to(ROOT)}" for folder in FOLDERS for file in folder.rglob("*")]
SOURCE = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))


@each_page
def test_files_and_members_that_a_page_names_exist(page: str) -> None:
    if page == "CHANGELOG.md":  # tells of what was, too
        return
    for name in re.findall(r"`([\w./-]+\.(?:py|toml|txt|yml|cff|jinja))`", PAGES[page]):
        assert any(file.endswith(f"/{name}") for file in FILES), name
    for kind, member in re.findall(r"`([A-Z][a-z]\w+)\.(\w+)(?:\([^`]*\))?`", PAGES[page]):
        assert re.search(rf"class {kind}\b", SOURCE), f"{kind}.{member}"
        assert re.search(rf"\b{member}\b", SOURCE), f"{kind}.{member}"


@pytest.mark.parametrize("package", ["torch", "transformers"])
@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_stated_versions_are_those_that_install(page: str, package: str) -> None:
    stated = re.search(rf"\b{package} (\d+)\.(\d+) to (\d+)\.(\d+)", " ".join(PAGES[page].split()))
    assert stated
    major, least, _, most = stated.groups()
    bounds = f'"{package}>={major}.{least},<{major}.{int(most) + 1}"'
    assert bounds in (ROOT / "pyproject.toml").read_text()


def test_the_changelog_and_the_citation_know_the_version() -> None:
    released = re.findall(r"^## \[(\d[^]]*)\] - (\S+)$", PAGES["CHANGELOG.md"], flags=re.MULTILINE)
    assert released[0][0] == holitom.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {released[0][0]}\n" in citation
    assert f"date-released: {released[0][1]}\n" in citation
