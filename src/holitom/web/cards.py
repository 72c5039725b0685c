"""HTML of runs: answers, the headline with its bars, the table of the session's runs."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from holitom.methods.registry import METHODS
from holitom.web.history import Figures, History, Ran, Times, times

LABELS = {"full": "Full tokens", "merged": "Merged tokens"}


def answer_card(run: str, text: str = "", state: str = "empty", note: str = "") -> str:
    """Write the card of one answer.

    Args:
        run: "full" or "merged".
        text: the answer, HTML.
        state: "empty", "waiting", "running" or "done".
        note: the line under the answer, HTML.
    """
    said = {"empty": "Press Ask", "waiting": "Waits for its turn", "running": "Answering"}.get(state, "")
    shown = text or f"<span class=quiet>{said}</span>"
    return (
        f'<section class="answer {state}" aria-busy="{str(state == "running").lower()}" '
        f'aria-labelledby="{run}-name"><h3 id="{run}-name">{LABELS[run]}</h3>'
        f'<p class=said tabindex=0 role=group aria-label="Answer">{shown}</p>'
        f"<p class=note>{note or '&nbsp;'}</p></section>"
    )


def answer_note(one: Figures) -> str:
    """Write the line under an answer: its numbers of visual tokens."""
    parts = [f"{one.tokens:,} visual tokens"]
    if one.layer is not None:
        parts.append(f"{one.remaining:,} from layer {one.layer} on")
    return html.escape(", ".join(parts))


def marked(text: str, other: str) -> str:
    """Write `text` as HTML, with marks around the words in which it differs from `other`."""
    words, others = text.split(), other.split()
    parts = []
    for kind, start, end, _, _ in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        part = html.escape(" ".join(words[start:end]))
        if part:
            parts.append(part if kind == "equal" else f"<mark>{part}</mark>")
    return " ".join(parts)


def headline(ran: Ran, history: History = ()) -> str:
    """Write the headline: a sentence and bars that compare merged with full tokens.

    Args:
        ran: the run.
        history: the session's runs; times are medians over those of the same request.
    """
    merged, full = ran.merged, ran.full
    taken = times(history or (ran,), ran.request)
    verdict = "Same answer" if ran.same else "Another answer"
    tokens = merged.tokens if merged.tokens < full.tokens else merged.remaining
    parts = [f"{_share(tokens, full.tokens)} of the visual tokens", _faster(taken.sooner)]
    parts.append(f"{_share(merged.cache, full.cache)} of the KV cache")
    return (
        f'<div class="headline {"same" if ran.same else "other"}">'
        f"<p class=verdict><strong>{verdict}</strong> "
        f"{' · '.join(parts)}</p>{_bars(ran, taken)}{_parts(taken.parts)}{_note(ran, taken)}</div>"
    )


def empty_headline() -> str:
    """Write the headline before the first answer, of the height of the others."""
    rows = "".join(_bar(label, None, None, "") for label in _ROWS)
    return (
        '<div class="headline empty"><p class=verdict>What merging changes is shown here: answer, tokens, '
        f"time, KV cache.</p><div class=bars>{rows}</div>{_parts({})}"
        "<p class=note>&nbsp;</p></div>"
    )


_ROWS = ("Visual tokens", "First token", "File to first token", "KV cache")


def _bars(ran: Ran, taken: Times) -> str:
    merged, full = ran.merged, ran.full
    tokens = f"{merged.tokens:,} of {full.tokens:,}"
    if merged.layer is not None:
        tokens += f", then {merged.remaining:,}"
    cache = f"{merged.cache / 1e6:.2f} of {full.cache / 1e6:.2f} MB"
    shown = merged.tokens if merged.tokens < full.tokens else merged.remaining
    rows = [
        _bar(_ROWS[0], shown, full.tokens, tokens),
        _bar(_ROWS[1], *taken.first, _pair(*taken.first)),
        _bar(_ROWS[2], *taken.from_file, _pair(*taken.from_file)),
        _bar(_ROWS[3], merged.cache, full.cache, cache),
    ]
    return f"<div class=bars>{''.join(rows)}</div>"


PARTS = {
    "reading": "Reading",
    "preprocessing": "Preprocessing",
    "vision": "Vision tower",
    "merging": "Merging",
    "prefill": "Prefill",
}


def _parts(taken: Mapping[str, tuple[float, float]]) -> str:
    """Write the parts of the time to the first token: a bar for each side, and the seconds of each part.

    Args:
        taken: seconds of each part, merged and full; empty before the first answer.
    """
    most = max((sum(side) for side in zip(*taken.values(), strict=True)), default=0.0) or 1.0
    bars = []
    for label, side in (("Full", 1), ("Merged", 0)):
        widths = {part: 100 * pair[side] / most for part, pair in taken.items()}
        shown = "".join(f'<b class="{part}" style="width:{wide:.2f}%"></b>' for part, wide in widths.items())
        bars.append(f"<div class=stack><span>{label}</span><i aria-hidden=true>{shown}</i></div>")
    told = {part: _once(*pair) for part, pair in taken.items()}
    key = "".join(
        f'<li><b class="{part}" aria-hidden=true></b>{name} <span>{told.get(part, "")}</span>'
        for part, name in PARTS.items()
    )
    return (
        "<section class=parts aria-label='Parts of the time from the file to the first token'>"
        f"<p class=quiet>From the file to the first token</p>{''.join(bars)}<ul>{key}</ul></section>"
    )


def _once(merged: float, full: float) -> str:
    """Write two times, or one where both read the same."""
    return seconds(merged) if seconds(merged) == seconds(full) else _pair(merged, full)


def _note(ran: Ran, taken: Times) -> str:
    """Write the line under the bars: number of runs, computed share, speed of decoding."""
    merged, full = ran.merged, ran.full
    notes = [] if taken.runs == 1 else [f"Times: medians of {taken.runs} runs."]
    if merged.computed is not None:
        notes.append(f"The vision tower computed {merged.computed:.0%} of the frames.")
    if merged.rate and full.rate and min(merged.new_tokens, full.new_tokens) >= COMPARED_TOKENS:
        notes.append(f"Decoding: {merged.rate:.0f} beside {full.rate:.0f} tokens/s.")
    return f"<p class=note>{' '.join(notes) or '&nbsp;'}</p>"


COMPARED_TOKENS = 8  # of each answer, at least: the speed of decoding fewer is mostly chance


def _bar(label: str, merged: float | None, full: float | None, value: str) -> str:
    """Write one row: a bar of merged tokens over a track of full tokens."""
    if not merged or not full:
        wide, track = 0.0, 100.0
    else:
        most = max(merged, full)
        wide, track = 100 * merged / most, 100 * full / most
    return (
        f'<div class=bar><span>{label}</span><i aria-hidden=true><b style="width:{track:.1f}%"></b>'
        f'<em style="width:{wide:.1f}%"></em></i><span class=value>{value or "&nbsp;"}</span></div>'
    )


def _pair(merged: float, full: float) -> str:
    return f"{seconds(merged)} beside {seconds(full)}"


def seconds(value: float) -> str:
    """Write a time, given in seconds, in ms or s."""
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _faster(times_as_fast: float) -> str:
    if 0.95 <= times_as_fast <= 1.05:
        return "first token as soon"
    if times_as_fast > 1:
        return f"first token {times_as_fast:.1f}x as fast"
    return f"first token {1 / times_as_fast:.1f}x as late"


def history_table(history: History) -> str:
    """Write the table of the session's runs, the newest first."""
    if not history:
        return "<p class=quiet>The runs of this session will be listed here. Nobody else sees them.</p>"
    heads = "|Method|Ratio|Frames|Video and question|Answer|Full tokens|Tokens|First token|KV cache".split(
        "|"
    )
    rows = []
    for number, ran in reversed(list(enumerate(history, 1))):
        request, merged, full = ran.request, ran.merged, ran.full
        method = request.method
        if request.changed_inner is not None:
            method += " + inner" if request.changed_inner else " without inner"
        if request.reuse:
            method += ", reuse" if merged.computed is None else f", reuse ({merged.computed:.0%} computed)"
        tokens = f"{merged.tokens:,}"
        if merged.layer is not None:
            tokens += f" → {merged.remaining:,}"
        cells = (
            str(number),
            method,
            f"{request.retain_ratio:g}",
            f"{request.frames}{'' if request.frames_by == 'time' else ' by change'}",
            f"{request.video.name}: {request.question}",
            merged.text,
            "same" if ran.same else full.text,
            f"{tokens} of {full.tokens:,}",
            _pair(merged.first, full.first),
            _share(merged.cache, full.cache),
        )
        rows.append(
            f"<tr class={'same' if ran.same else 'other'}>" + "".join(f"<td>{_cell(c)}" for c in cells)
        )
    head = "".join(f"<th scope=col>{name}" for name in heads)
    return (
        f"<div class=scroll tabindex=0 role=region aria-label='Runs of this session'><table class=history>"
        f"<thead><tr>{head}<tbody>{''.join(rows)}</table></div>"
    )


def _cell(text: str) -> str:
    short = text if len(text) <= 60 else text[:59] + "…"
    return html.escape(short)


def method_lines(names: Iterable[str]) -> list[tuple[str, str]]:
    """List methods to choose from: the text to show, and the name."""
    return [(f"{name}: {METHODS[name].does}", name) for name in names]
