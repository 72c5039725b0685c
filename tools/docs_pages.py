"""Gathers the pages of the documentation site.

    python tools/docs_pages.py build/pages && mkdocs build --strict

Pages are Markdown files that read well in the repository, so their links lead to files of the repository.
This copies them to a folder of their own and turns each link to what it leads to there: README.md becomes the
first page, and a source file that a page links to comes along as text.
"""

from __future__ import annotations

import re
import shutil
import sys
from os.path import relpath
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that do not lie under docs/, and their names on the site."""

CODE = re.compile(r"^ *```.*?^ *```[ \t]*$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()[^()\s]+(?=\))|(?<=href=\")[^\"]+(?=\")|(?<=src=\")[^\"]+(?=\")")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


def pages() -> dict[Path, str]:
    """Every page of the site, by its file: its path on the site."""
    found = {file: str(file.relative_to(DOCS)) for file in sorted(DOCS.rglob("*.md"))}
    return found | {ROOT / name: page for name, page in OUTSIDE.items() if (ROOT / name).exists()}


def blanked(text: str) -> str:
    """`text` with its code as blanks, every other character in its place."""
    return CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)


def links(text: str) -> list[re.Match[str]]:
    """The targets of the links and images of a page that lead to a file or to a heading, in order."""
    return [link for link in LINK.finditer(blanked(text)) if not re.match(r"[a-z]+:", link[0])]


def anchors(text: str) -> list[str]:
    """What links call the headings of a page, in order."""
    without_blocks = re.sub(r"^ *```.*?^ *```[ \t]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    names: list[str] = []
    for heading in HEADING.findall(without_blocks):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(name)}(_\d+)?", other) is not None for other in names)
        names.append(f"{name}_{same}" if same else name)
    return names


def file_of(link: str, page: Path) -> tuple[Path, str]:
    """The file that `link` of `page` leads to, and the heading in it ("" where the link names none).

    A link to a folder leads to its README.md.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path, _, heading = link.partition("#")
    file = (page.parent / path).resolve() if path else page
    if file.is_dir():
        file = file / "README.md"
    if not file.is_file():
        raise FileNotFoundError(f"{page.relative_to(ROOT)} links to {link}, which is no file")
    return file, heading


def place_of(file: Path) -> str:
    """The path on the site of a file that a page links to."""
    page = pages().get(file)
    if page is not None:
        return page
    if file.is_relative_to(DOCS):
        return str(file.relative_to(DOCS))
    return f"files/{file.relative_to(ROOT)}.txt"  # browsers show text and would download code


def gather(target: Path) -> None:
    """Write all pages, and the files that they link to, into the folder `target`, which is emptied."""
    shutil.rmtree(target, ignore_errors=True)
    for page, place in pages().items():
        text = page.read_text()
        for link in reversed(links(text)):
            file, heading = file_of(link[0], page)
            there = place_of(file)
            if file not in pages():
                (target / there).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / there)
            relative = relpath(there, Path(place).parent) + (f"#{heading}" if heading else "")
            text = text[: link.start()] + relative + text[link.end() :]
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(text)


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
