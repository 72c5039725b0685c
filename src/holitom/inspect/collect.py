"""Collect an `Inspection` from a run of a model; only this file of the package uses tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from holitom.ask import ask
from holitom.contract import AnyStage
from holitom.costs.decoder import Decoder, Level
from holitom.errors import UnsupportedUsageError
from holitom.inspect.inspection import Inspection, Places, Reused, Stage
from holitom.methods.base import Method, Wrapper
from holitom.models import adapter_for
from holitom.ops.host import to_host
from holitom.ops.segmentation import neighbour_similarity
from holitom.prompts import prompt
from holitom.tokens import MergedTokens, VideoTokens

if TYPE_CHECKING:
    from holitom.inspect.draw_png import TokenMap
    from holitom.runtime import Report, VideoReport
    from holitom.tower.plan import Plan
    from holitom.video import Video

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Watched(Wrapper):
    """A method that merges as another does, and keeps the tokens which it is given.

    Attributes:
        importance: whether importance is read even where the method does not need it.
        seen: the tokens of each video.
    """

    importance: bool = field(kw_only=True, default=False)
    seen: list[VideoTokens] = field(kw_only=True, default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance:
            object.__setattr__(self, "needs_importance", True)

    def merge(self, video: VideoTokens) -> MergedTokens:
        self.seen.append(video)
        return self.outer.merge(video)

    def inner(self, num_layers: int) -> tuple[AnyStage, ...]:
        return self.outer.inner(num_layers)


class _Enough(Exception):  # noqa: N818  (no error: it ends a forward early)
    """Ends a forward before the language model runs."""


def inspect_video(
    model: Any,
    processor: Any,
    video: Video,
    method: Method,
    question: str | None = None,
    *,
    title: str = "video",
    name: str = "",
    max_new_tokens: int = 64,
    banner: str | None = None,
    pictures: Frames | None = None,
) -> Inspection:
    """Run `method` on one video and collect the fate of each of its tokens.

    Args:
        model: a model of a supported family.
        processor: the model's own processor.
        video: a video from `holitom.video.load_video`.
        method: a method of `holitom.methods`.
        question: the question. Default: none; the language model does not run then, and the tokens that
            its inner stages leave are not known.
        title: name of the video.
        name: name of the model.
        max_new_tokens: longest answer, in tokens.
        banner: a note on what the model can do, shown above its answers.
        pictures: `[F, H, W, 3]` uint8, the frames to draw on. Default: `video.frames`.

    Raises:
        UnsupportedUsageError: the method does not say where tokens went.
    """
    watched = Watched(method, importance=True)
    inputs = prompt(processor, video, question or "")
    answer = None
    if question:
        answered = ask(model, processor, inputs, watched, max_new_tokens)
        report, answer = answered.report, answered.text
    else:
        report = _encode(model, inputs, watched)
    found = inspection_of_run(model, video, watched, report, pictures)
    return replace(found, title=title, model=name, question=question, answer=answer, banner=banner)


def inspection_of_run(
    model: Any, video: Video, watched: Watched, report: Report, pictures: Frames | None = None
) -> Inspection:
    """Collect the inspection of a run of `watched` on one video, without names, question and answer.

    `pictures` are those of `inspect_video`.

    Raises:
        UnsupportedUsageError: the method does not say where tokens went.
    """
    method = watched.outer
    merges = getattr(method, "outer", method)
    plans = () if report.reuse is None else report.reuse.plans
    with torch.inference_mode():
        similarity = to_host(neighbour_similarity(watched.seen[0].features))
    return inspection_of(
        report.videos[0],
        video.frames if pictures is None else pictures,
        method=describe(method),
        numbers=np.array(video.metadata.frames_indices, dtype=np.int64),
        seconds=np.array(video.times, dtype=np.float64) if video.metadata.fps else None,
        similarity=similarity,
        threshold=getattr(merges, "threshold", getattr(merges, "similarity_threshold", None)),
        costs=_costs(model),
        reused=reused_of(plans[0], report.videos[0]) if plans else None,
    )


def describe(method: Method) -> str:
    """Write a method with its budget and the settings that differ from their defaults."""
    own = [field for field in fields(method) if field.init]
    told = [
        f"{setting.name}={value!r}"
        for setting in own
        if (value := getattr(method, setting.name)) != setting.default or setting.name == "retain_ratio"
    ]
    return f"{type(method).__name__}({', '.join(told)})"


def inspection_of(
    report: VideoReport,
    frames: Frames | None = None,
    *,
    title: str = "video",
    method: str = "",
    model: str = "",
    numbers: Places | None = None,
    seconds: NDArray[np.float64] | None = None,
    similarity: NDArray[np.float32] | None = None,
    threshold: float | None = None,
    costs: Callable[[list[Level]], tuple[int, int]] | None = None,
    question: str | None = None,
    answer: str | None = None,
    reused: Reused | None = None,
    banner: str | None = None,
) -> Inspection:
    """Make an inspection of what a run reports of one video (`run.last.videos[0]`).

    Args:
        report: the report of the video.
        frames: `[F, H, W, 3]` uint8, the sampled frames to draw on. Default: none, a plain grid is drawn.
            Where the model takes several frames as one row of tokens, the first of each is shown.
        title: name of the video.
        method: the method and its settings.
        model: name of the model.
        numbers: `[F]` int64, the index of each frame in the file.
        seconds: `[F]` float64, the time of each frame.
        similarity: `[T - 1, N]`, see `Inspection`.
        threshold: see `Inspection`.
        costs: gives operations and bytes of the KV cache for numbers of visual tokens by layer.
        question: the question to the model.
        answer: the model's answer.
        reused: the places that the vision tower computed, see `reused_of`.
        banner: a note on what the model can do.

    Raises:
        UnsupportedUsageError: the method does not say where tokens went, or there are fewer frames than rows.
    """
    if report.origins is None:
        raise UnsupportedUsageError(
            "this method does not say where its tokens went (MergedTokens.origins), so they cannot be drawn"
        )
    rows, tokens = report.steps, report.tokens_per_step
    if frames is not None and len(frames) < rows:
        raise UnsupportedUsageError(f"{len(frames)} frames for {rows} rows of tokens; pass those of the run")
    shown = None if frames is None else np.arange(rows) * len(frames) // rows
    origins = report.origins()
    into = to_host(origins.into)
    into[~np.isin(into, to_host(report.place))] = -1  # a family may send less than the method kept
    importance = to_host(report.importance)
    return Inspection(
        frames_per_step=report.frames_per_step,
        title=title,
        method=method,
        model=model,
        grid=report.grid,
        via=to_host(origins.via),
        into=into,
        segments=report.segments,
        stages=_stages(report, costs),
        frames=None if frames is None else np.ascontiguousarray(frames[shown]),
        numbers=_at(numbers, shown),
        seconds=_at(seconds, shown),
        importance=importance if importance.any() else None,
        similarity=similarity,
        threshold=threshold,
        survivors=_survivors(report, rows, tokens),
        question=question,
        answer=answer,
        reused=reused,
        banner=banner,
    )


def _at(values: Any, shown: Places | None) -> Any:
    """Take the values of the frames that are shown."""
    return values if values is None or shown is None else values[shown]


def reused_of(plan: Plan, report: VideoReport) -> Reused | None:
    """Collect the places that the vision tower computed of a video; None where they form no grid."""
    frames, places = plan.computed.shape
    rows, columns = report.grid
    side = round(places**0.5)
    if frames != report.steps or (places != rows * columns and places != side * side):
        return None
    grid = (rows, columns) if places == rows * columns else (side, side)
    return Reused(grid, plan.computed, plan.reference)


def plot(report: VideoReport, frames: Frames | None = None) -> TokenMap:
    """Draw the fate of each token of one video as a matplotlib figure (`holitom[plots]`).

    Args:
        report: the report of the video, such as `run.last.videos[0]`.
        frames: `[F, H, W, 3]` uint8, the frames that the processor was given, to draw on; a run does not hold
            them. Default: none, a plain grid is drawn.

    Raises:
        ImportError: matplotlib is not installed.
        UnsupportedUsageError: the method does not say where tokens went, or there are fewer frames than rows.
    """
    from holitom.inspect.draw_png import token_map

    return token_map(inspection_of(report, frames))


@torch.inference_mode()
def _encode(model: Any, inputs: Any, method: Method) -> Report:
    """Encode and merge without running the language model; return the report."""

    def stop(*_: Any) -> None:
        raise _Enough

    with method(model) as run:
        hook = adapter_for(model).language_model.register_forward_pre_hook(stop)  # after merging's own
        with hook, suppress(_Enough):
            model(**inputs.to(model.device, model.dtype))
    assert run.last is not None, "the prompt holds a video"
    return run.last


def _survivors(report: VideoReport, frames: int, tokens: int) -> dict[int, NDArray[np.bool_]] | None:
    """Find the sent tokens that stay, `[T, N]` bool for each layer; None where nothing is merged inside."""
    if not report.inner:
        return None
    found = {}
    for layer in report.inner:
        place = to_host(report.place[report.survivors(layer)])
        found[layer] = np.zeros((frames, tokens), dtype=bool)
        found[layer].flat[place[place >= 0]] = True
    return found


def _stages(report: VideoReport, costs: Callable[[list[Level]], tuple[int, int]] | None) -> list[Stage]:
    stages, levels = [], [Level(0, report.tokens)]
    place = to_host(report.place)
    left = {f"layer {k}": int((place[to_host(report.survivors(k))] >= 0).sum()) for k in report.inner}
    for name, tokens in {"full": report.tokens, **report.outer, **left}.items():
        inside = name in left
        levels = [*levels, Level(int(name.split()[1]), tokens)] if inside else [Level(0, tokens)]
        stages.append(Stage(name, tokens, *((None, None) if costs is None else costs(levels))))
    return stages


def _costs(model: Any) -> Callable[[list[Level]], tuple[int, int]]:
    """Make a function from numbers of visual tokens by layer to operations (the paper's formula) and bytes of
    the KV cache."""
    decoder, itemsize = Decoder.of(model.config), model.dtype.itemsize

    def costs(levels: list[Level]) -> tuple[int, int]:
        return decoder.prefill(levels), decoder.kv_bytes(levels, itemsize)

    return costs
