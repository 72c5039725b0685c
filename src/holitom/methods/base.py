"""The base of every merging method: validated settings, and two stages that merge a video's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch

from holitom.contract import AnyStage, FrameMerging, Reuse
from holitom.errors import SettingsError
from holitom.ops.budgets import exact_total
from holitom.tokens import MergedTokens, Origins, VideoTokens

if TYPE_CHECKING:
    from holitom.runtime import Handle, Run


@dataclass(frozen=True)
class Method:
    """A method that keeps every token; subclasses override what they merge.

    A method is a value: hyper-parameters, validated on construction, and no state. Calling it on a
    model attaches it for a `with` block; `attach` attaches it until the handle is detached.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1]; at least one
            token of a video does. For methods that average repeated tokens over time and have no exact count
            (HoliTom with `budget="ratio"`, PruneVid) it is an upper bound: they send fewer tokens of a video
            that repeats, also at 1.
        positions: "packed": the tokens left of a prompt get position ids without gaps, as in the paper.
            "own": every token, the text behind the video too, keeps the position id that it has in the
            unmerged prompt; models with several rotary axes always do that.
        reuse: whether the vision tower computes only those parts of a frame that differ from a reference
            frame: False, True (the defaults of `Reuse`) or a `holitom.Reuse`. The result is approximate:
            `holitom drift` shows by how much it differs.
        tower_batch: largest number of frames that go through the vision tower at a time, so that its memory
            does not grow with the video; the result is the same. None: all frames of a call at once.

    Raises:
        SettingsError: a hyper-parameter is out of its range.
    """

    retain_ratio: float = 0.10
    positions: Literal["packed", "own"] = field(default="packed", kw_only=True)
    reuse: Reuse | bool = field(default=False, kw_only=True)
    tower_batch: int | None = field(default=None, kw_only=True)

    needs_importance: ClassVar[bool] = False
    """Whether `merge` reads `VideoTokens.importance`; only then is the vision tower's attention read."""

    needs_keys: ClassVar[bool] = False
    """Whether `merge` reads `VideoTokens.keys`; only then are the vision tower's keys read."""

    needs_shallow: ClassVar[bool] = False
    """Whether `merge` reads `VideoTokens.shallow`; only then is an early attention of the tower read."""

    count_varies: ClassVar[bool] = False
    """Whether the number of tokens that `merge` returns depends on what the video shows."""

    usual: ClassVar[dict[str, str]] = {"tower_batch": "all frames"}
    """Words for the default that is in force where a field of the class is None."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):  # @dataclass writes its own, unless the class has one by then
            cls.__repr__ = Method.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        require("retain_ratio", self.retain_ratio, "a number in (0, 1]", lambda r: 0 < r <= 1)
        choose("positions", self.positions, "packed", "own")
        Reuse.of(self.reuse)
        self._check(["tower_batch"], "a whole number from 1 on, or None", lambda v: v >= 1, whole=True)

    def _check_shares(self, *names: str) -> None:
        """Raise a `SettingsError` unless these fields are numbers in [0, 1]."""
        self._check(names, "a number in [0, 1]", lambda v: 0 <= v <= 1)

    def _check_similarities(self, *names: str) -> None:
        """Raise a `SettingsError` unless these fields are cosine similarities."""
        self._check(names, "a number in [-1, 1]", lambda v: -1 <= v <= 1)

    def _check_counts(self, *names: str, least: int = 1) -> None:
        """Raise a `SettingsError` unless these fields are whole numbers from `least` up."""
        self._check(names, f"a whole number from {least} up", lambda v: v >= least, whole=True)

    def _check_layers(self, *names: str) -> None:
        """Raise a `SettingsError` unless these fields are layers before which something may merge."""
        self._check(names, "a layer from 1 up", lambda v: v >= 1, whole=True)

    def _check(
        self, names: Sequence[str], allowed: str, holds: Callable[[Any], bool], *, whole: bool = False
    ) -> None:
        """`require` for fields of the method; None is allowed where it is the default."""
        for name in names:
            value = getattr(self, name)
            if value is not None or getattr(type(self), name, ...) is not None:
                require(name, value, allowed, holds, whole=whole)

    def __repr__(self) -> str:
        """Show every field, with the default in force in the place of None."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)} | self.in_force()
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def in_force(self) -> dict[str, object]:
        """Defaults in force for fields that are None, by field name, as numbers or words."""
        known = [vars(kind).get("usual", {}) for kind in type(self).__mro__]
        return {name: text for usual in known for name, text in usual.items() if getattr(self, name) is None}

    def merged_count(self, frames: int, tokens: int) -> int:
        """Number of tokens that `merge` returns for `frames` of `tokens` each, whatever they show.

        It is `retain_ratio` of all tokens, rounded, and at least one; all where the method has no `merge`.

        Raises:
            SettingsError: the count depends on what the video shows, or the budget cannot be met.
        """
        if self.count_varies:
            raise SettingsError(
                f"how many tokens {type(self).__name__} keeps depends on what the video shows"
            )
        everything = type(self).merge is Method.merge
        return frames * tokens if everything else exact_total(self.retain_ratio, frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        """Merge one video's tokens before the language model (the outer stage).

        Decisions depend on `features`, `importance` and `keys`; `streams` merge as `features` do.
        """
        frames, tokens, _ = video.features.shape
        place = torch.arange(frames * tokens, device=video.features.device)
        return MergedTokens(
            features=video.features.flatten(0, 1),
            frame=place // tokens,
            position=place % tokens,
            size=torch.ones_like(place),
            segments=[(frame, frame) for frame in range(frames)],
            stages={},
            origins=lambda: Origins(place.view(frames, tokens), place.view(frames, tokens)),
            streams=None if video.streams is None else video.streams.flatten(0, 1),
        )

    @property
    def frame_merging(self) -> FrameMerging | None:
        """Settings with which the vision tower merges whole frames; None: it does not."""
        return None

    def inner(self, num_layers: int) -> tuple[AnyStage, ...]:
        """The inner stages for a language model of `num_layers` layers, by rising layer."""
        return ()

    @property
    def merges_inside(self) -> bool:
        """Whether the method, with these settings, has inner stages."""
        return type(self).inner is not Method.inner

    def with_inner(self, inside: Method) -> Method:
        """Combine this method's outer stage with the inner stages of `inside`.

        Raises:
            SettingsError: this method has inner stages of its own, or `inside` has none.
        """
        return Combined(self, inside)

    def without_inner(self) -> Method:
        """The method without its inner stages, at the same budget; itself where it has none.

        Raises:
            SettingsError: the method has no outer stage (FastV, PyramidDrop), or no settings without inner
                stages.
        """
        if not self.merges_inside:
            return self
        name = type(self).__name__
        if type(self).merge is Method.merge:
            raise SettingsError(
                f"{name} works inside the language model alone: without its inner stages it merges nothing"
            )
        raise SettingsError(f"{name} has no form without its inner stages")

    def __call__(self, model: Any) -> AbstractContextManager[Run]:
        """Attach the method to `model` for a `with` block."""
        from holitom.runtime import attached

        return attached(self, model)

    def attach(self, model: Any) -> Handle:
        """Attach the method to `model` until the handle's `detach()`."""
        from holitom.runtime import attach

        return attach(self, model)


@dataclass(frozen=True)
class Wrapper(Method):
    """A method with the settings and the outer stage of another one.

    Attributes:
        outer: the other method.
    """

    retain_ratio: float = field(init=False)
    positions: Literal["packed", "own"] = field(init=False, kw_only=True)
    reuse: Reuse | bool = field(init=False, kw_only=True)
    tower_batch: int | None = field(init=False, kw_only=True)
    outer: Method

    def __post_init__(self) -> None:
        traits = ("needs_importance", "needs_keys", "needs_shallow", "count_varies")
        for name in (*(setting.name for setting in fields(Method)), *traits):
            object.__setattr__(self, name, getattr(self.outer, name))
        super().__post_init__()

    @property
    def frame_merging(self) -> FrameMerging | None:
        return self.outer.frame_merging

    def merged_count(self, frames: int, tokens: int) -> int:
        return self.outer.merged_count(frames, tokens)

    def merge(self, video: VideoTokens) -> MergedTokens:
        return self.outer.merge(video)


@dataclass(frozen=True)
class Combined(Wrapper):
    """The outer stage of one method and the inner stages of another, from `outer.with_inner(inside)`.

    Attributes:
        outer: the method whose `merge` is used; it has no inner stages.
        inside: the method whose inner stages are used; its `merge` is not.

    Raises:
        SettingsError: `outer` has inner stages of its own, or `inside` has none.
    """

    inside: Method

    def __post_init__(self) -> None:
        for name in ("outer", "inside"):
            if not isinstance(getattr(self, name), Method):
                raise SettingsError(f"{name} must be a method, got {getattr(self, name)!r}")
        outer, inside = type(self.outer).__name__, type(self.inside).__name__
        if self.outer.merges_inside:
            raise SettingsError(
                f"{outer} has inner stages of its own, so it takes none of {inside}'s: they would run under "
                f"{outer}'s name in the place of its own"
            )
        if not self.inside.merges_inside:
            raise SettingsError(f"{inside}, with these settings, has no inner stages to add to {outer}")
        super().__post_init__()

    def inner(self, num_layers: int) -> tuple[AnyStage, ...]:
        return self.inside.inner(num_layers)

    def without_inner(self) -> Method:
        return self.outer


def require(
    field: str, value: object, allowed: str, holds: Callable[[Any], bool], *, whole: bool = False
) -> None:
    """Raise a `SettingsError` that names field, value and range unless `holds(value)`.

    A value that is infinite, not a number or beyond 64 bits is refused for every field.
    """
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not number or not abs(cast(float, value)) < 2**63 or not holds(value):
        # Of a value that prints as many lines (a model, which `HoliTom(model)` gives), the class is enough.
        got = f"a {type(value).__name__}" if "\n" in repr(value) else repr(value)
        raise SettingsError(f"{field} must be {allowed}, got {got}")


def require_layer(layer: int, num_layers: int) -> None:
    """Raise a `SettingsError` unless a model of `num_layers` layers has `layer` as its `inner_layer`."""
    if layer >= num_layers:
        raise SettingsError(
            f"inner_layer must be in 1..{num_layers - 1} of the model's {num_layers} layers, got {layer}"
        )


def choose(field: str, value: object, *names: str) -> None:
    """Raise a `SettingsError` that names field, value and choices unless `value` is one of `names`."""
    if value not in names:
        allowed = " or ".join(f'"{name}"' for name in names)
        raise SettingsError(f"{field} must be {allowed}, got {value!r}")
