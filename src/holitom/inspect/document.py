"""A whole HTML page in one file, which asks nothing of the network."""

from __future__ import annotations

import html
import re
from importlib.resources import files


def part(name: str) -> str:
    """Read a file of this package, such as `map.css`."""
    return (files("holitom.inspect") / name).read_text(encoding="utf-8")


def document(title: str, css: str, body: str, scripts: bool = False) -> str:
    """Make a whole HTML page.

    Args:
        title: title of the page, plain text.
        css: its styles.
        body: its body, HTML.
        scripts: whether scripts of the body may run; the page's content security policy forbids them
            otherwise.
    """
    parts = {
        "title": html.escape(title),
        "css": css,
        "body": body,
        "scripts": "; script-src 'unsafe-inline'" if scripts else "",
    }
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], part("page.html"))
