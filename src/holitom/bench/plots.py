"""Pictures of `results.json`: accuracy against cost, and accuracy by task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("pictures need matplotlib: pip install 'holitom[bench]'") from error

from holitom.costs import unit_of

Row = dict[str, Any]

# Okabe and Ito's colours, which are distinct for colour-blind readers, without pale yellow. Black is for full
# tokens.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d", "8")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "holitom",  # so that equal results give equal files
}


class Look(NamedTuple):
    """Arguments of matplotlib's `plot` by which a method is known."""

    color: str
    marker: str
    linestyle: str


def looks(results: dict[str, Any]) -> dict[str, Look]:
    """Colour, marker and dashes of each method, by label; up to fourteen methods have different markers."""
    labels = list(dict.fromkeys(row["label"] for row in results["settings"][1:]))
    labels.sort(key=lambda label: not label.startswith("HoliTom"))
    return {
        label: Look(
            COLORS[index % len(COLORS)],
            MARKERS[index % len(MARKERS)],
            ("-", "--", ":")[index // len(COLORS) % 3],
        )
        for index, label in enumerate(labels)
    }


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _run(results: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Rows of full tokens, and of all settings that are not refused."""
    full, *others = results["settings"]
    return full, [row for row in others if not row["refused"]]


def _score(row: Row, panel: str) -> float:
    """Accuracy in percent: of a task by its name, or the average."""
    return 100 * float(row["average"] if panel == "average" else row["tasks"][panel])


def _name(axes: Axes, panel: str) -> None:
    """Write the name of a panel over it, that of the average in bold."""
    axes.set_title(panel, fontsize=10, fontweight="bold" if panel == "average" else "normal")


def _title(results: dict[str, Any], text: str) -> str:
    asked = results["questions"]
    quick = " (quick run)" if results["quick"] else ""
    return f"{text}: {results['benchmark']}, {asked['count']:,} questions{quick}"


def plot_against_cost(results: dict[str, Any], path: Path) -> Path:
    """Plot average accuracy over prefill operations, one line for each method.

    Args:
        results: contents of `results.json`.
        path: path of the picture; its extension gives the format.
    """
    full, rows = _run(results)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.2))
        axes = figure.add_subplot()
        unit, scale = unit_of(full["prefill_operations"])
        axes.axhline(100 * full["average"], color="black", linewidth=1, linestyle="--")
        axes.plot(
            full["prefill_operations"] / scale,
            100 * full["average"],
            "k*",
            markersize=13,
            label="full tokens",
        )
        for label, look in looks(results).items():
            own = sorted(
                (r for r in rows if r["label"] == label), key=lambda r: float(r["prefill_operations"])
            )
            if not own:
                continue
            x = [row["prefill_operations"] / scale for row in own]
            y = [100 * row["average"] for row in own]
            low, high = zip(*(row["average_interval"] for row in own), strict=True)
            ours = label.startswith("HoliTom")
            axes.plot(
                *(x, y),
                **look._asdict(),
                linewidth=2.4 if ours else 1.3,
                markersize=7 if ours else 5.5,
                zorder=3 if ours else 2,
                label=label,
            )
            if label == "HoliTom":
                axes.fill_between(
                    *(x, [100 * v for v in low], [100 * v for v in high]),
                    color=look.color,
                    alpha=0.15,
                    lw=0,
                    label="its 95% interval",
                )
        axes.set_xscale("log")
        axes.set_xlabel(f"prefill of the visual tokens, {unit} (the paper's formula; log scale)")
        axes.set_ylabel("average accuracy, %")
        axes.set_title(_title(results, "Accuracy against prefill cost"), loc="left", fontsize=11)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        return _save(figure, path)


def plot_by_task(results: dict[str, Any], path: Path, retain_ratio: float = 0.10) -> Path:
    """Plot the accuracy in each task at one budget: a row for each method, a panel for each task.

    Args:
        results: contents of `results.json`.
        path: path of the picture; its extension gives the format.
        retain_ratio: the budget; the nearest budget in the results is shown.
    """
    full, rows = _run(results)
    ratios = sorted({row["retain_ratio"] for row in rows}, key=lambda ratio: abs(ratio - retain_ratio))
    rows = [row for row in rows if row["retain_ratio"] == ratios[0]] if rows else []
    rows.sort(key=lambda row: float(row["average"]))
    panels = [*results["questions"]["by_task"], "average"]
    style = looks(results)
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(1.45 * len(panels) + 1, 0.33 * max(len(rows), 1) + 1.3))
        for index, (axes, panel) in enumerate(
            zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True)
        ):
            axes.axvline(_score(full, panel), color="black", lw=1)
            for height, row in enumerate(rows):
                look = style[row["label"]]
                value = _score(row, panel)
                axes.plot([0, value], [height, height], color=look.color, linewidth=1, alpha=0.45)
                if panel == "average":
                    ends = [100 * end for end in row["average_interval"]]
                    axes.plot(ends, [height, height], color=look.color, linewidth=4, alpha=0.4)
                axes.plot(value, height, color=look.color, marker=look.marker, markersize=7, clip_on=False)
            _name(axes, panel)
            axes.set_xlim(0, 105)
            axes.set_xticks([0, 50, 100])
            axes.set_yticks(
                range(len(rows)), [f"{row['label']} ({row['prefill_share']:.0%})" for row in rows]
            )
            axes.tick_params(left=False)
            if index:
                axes.spines["left"].set_visible(False)
        budget = f"at {100 * ratios[0]:g}% of the tokens" if ratios else "with full tokens"
        heading = _title(results, f"Accuracy by task {budget}, %")
        figure.suptitle(heading, x=0.02, y=1.0, ha="left", fontsize=11)
        figure.text(
            *(0.02, -0.02),
            "Line: full tokens. In brackets: prefill operations, of full tokens'. Bars: 95% intervals.",
            fontsize=8.5,
            color="#444444",
        )
        figure.tight_layout(w_pad=0.4)
        return _save(figure, path)


def plot_against_frames(results: dict[str, Any], path: Path) -> Path:
    """Plot accuracy over the number of frames at equal cost, a panel for each task and one for the average.

    Args:
        results: contents of the `results.json` of long videos.
        path: path of the picture; its extension gives the format.
    """
    full, rows = _run(results)
    whole = [row for row in rows if row["name"] == full["name"]]
    panels = [*results["questions"]["by_task"], "average"]
    style = looks({**results, "settings": [full, *(row for row in rows if row["name"] != full["name"])]})
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns + 1.2, 2.4 * lines + 0.9))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            axes.axhline(_score(full, panel), color="black", linewidth=1)
            for label, look in style.items():
                own = sorted(
                    (row for row in rows if row["label"] == label), key=lambda row: int(row["frames"])
                )
                if not own:
                    continue
                x = [row["frames"] for row in own]
                (line,) = axes.plot(
                    *(x, [_score(row, panel) for row in own]),
                    **look._asdict(),
                    markersize=4.5,
                    linewidth=1.3,
                    label=label,
                )
                if panel == "average":
                    ends = zip(*(row["average_interval"] for row in own), strict=True)
                    low, high = ([100 * end for end in side] for side in ends)
                    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, lw=0)
            axes.plot(full["frames"], _score(full, panel), "k*", markersize=9, label="full tokens")
            if whole:
                axes.plot(
                    *([row["frames"] for row in whole], [_score(row, panel) for row in whole]),
                    "*",
                    color="#888888",
                    markersize=8,
                    label="full tokens, at a higher cost",
                )
            _name(axes, panel)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_ylim(0, 104)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles, labels = grid[0].get_legend_handles_labels()
        grid[columns - 1].legend(
            handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9
        )
        heading = _title(results, "Accuracy against frames, with equally many visual tokens, %")
        figure.suptitle(heading, x=0.02, y=1.0, ha="left", fontsize=11)
        figure.supxlabel("frames sampled from each video (log scale)", fontsize=9.5)
        figure.tight_layout()
        return _save(figure, path)
