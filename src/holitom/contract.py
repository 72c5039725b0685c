"""What a merging method is to those that run it: the models and the runtime know this and no method.

A method reduces a video's visual tokens twice. Its outer stage, `Merges.merge`, acts on one video before the
language model. Its inner stages, `Merges.inner`, act on one row of a batch between two layers of the language
model.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from holitom.tokens import MergedTokens, VideoTokens


class InnerStage(Protocol):
    """One reduction of the visual tokens inside the language model, for one row of a batch."""

    @property
    def layer(self) -> int:
        """0-based: the stage acts on the hidden states that enter this layer."""

    @property
    def own_attention(self) -> bool:
        """Whether the attention that ranks is `layer`'s own, worked out before it runs; else it is read in
        the layer before."""

    def keep(self, visual: int) -> int:
        """How many of `visual` tokens remain: known to the host, monotone, at least one of any."""

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce one row's visual tokens.

        Args:
            hidden: `[V, D]`: the visual tokens that enter `layer`.
            attention: `[V]`: the attention that the last query gave them in `layer - 1` (or gives them
                in `layer`, see `own_attention`), averaged over heads.

        Returns:
            Indices of the `keep(V)` kept tokens, ascending, and their features `[keep(V), D]`.
        """


class Merges(Protocol):
    """What merges a video's visual tokens; `holitom.Method` is the one that a user subclasses."""

    @property
    def retain_ratio(self) -> float:
        """Share of the visual tokens that goes into the language model, in (0, 1]."""

    @property
    def positions(self) -> Literal["packed", "own"]:
        """How position ids are given: "packed" numbers what is left of a prompt without gaps, "own" keeps the
        ids of the unmerged prompt."""

    @property
    def needs_importance(self) -> bool:
        """Whether `merge` reads `VideoTokens.importance`; only then is the vision tower's attention read."""

    @property
    def needs_keys(self) -> bool:
        """Whether `merge` reads `VideoTokens.keys`; only then are the vision tower's keys read."""

    def merge(self, video: VideoTokens) -> MergedTokens:
        """The outer stage: the tokens that one video sends into the language model.

        It decides on `features`, `importance` and `keys`, and merges `streams` as it merges `features`.
        """

    def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
        """The stages inside a language model of `num_layers` layers, by rising layer."""
