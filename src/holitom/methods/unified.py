"""Unified spatio-temporal compression, "Unified STC" (arXiv 2603.21957, CVPR 2026).

This is an independent implementation of the definition (the paper is CC BY; no code is public).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from holitom.contract import TextAwareStage
from holitom.methods.base import Method, require, require_layer
from holitom.methods.parts import all_of, assemble, averaged, unchanged
from holitom.ops.budgets import kept_share
from holitom.ops.host import to_host
from holitom.ops.merging import merge_into_most_similar, most_attended
from holitom.ops.pairs import Products, density_peaks
from holitom.ops.ragged import compact, rankable, unit_range
from holitom.ops.similarity import finite_vectors, unit_vectors
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class Unified(Method):
    """Keep one pool of important, dissimilar tokens for the whole video, and cluster the other tokens.

    With `B = max(1, round(r T N))` and `c = round(cluster_ratio * B)`:

    1. *Pool.* All tokens of the video are visited by falling importance `a[t,n]`. A token joins the pool if
       its cosine similarity to every token in it is below `similarity_threshold`, until the pool holds
       `B - c` tokens. They stay as they are.
    2. *Recycle.* All other tokens are clustered together by DPC-KNN into `B - |pool|` clusters, each sent as
       its plain mean at its centre's place.
    3. Tokens are sent in order of place.

    Inside the language model, before `inner_layer`, the half of the visual tokens stays that the text attends
    to or resembles most, and each other token is averaged into the most similar of them (`TextAwareMerge`).

    Details of our own, where the paper says nothing: `knn` is 7; clusters get the part of the budget that the
    pool does not fill, so that `B` tokens are sent of a still video too; the text is what follows the row's
    last video; each score is scaled to [0, 1]; layer, share and merging rule of the inner stage are
    HoliTom's.

    It takes one device synchronisation. The pool takes `B - c` sequential steps of seven operations. All
    products of two tokens are held at once up to 83 frames of 196 tokens (`(T N)^2` float32, 157 MB for 32
    frames); for longer videos they are computed in rows, once for a step of the pool and twice for the
    clusters. For 32 frames of 196 tokens, 3584 wide, they take `(T N)^2 D` = 141 GFLOP (half of them are
    computed, since they are symmetric), and the method takes 55 times as long as HoliTom on two CPU
    cores.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        similarity_threshold: cosine similarity to a token of the pool at which a token does not join it, in
            [-1, 1].
        cluster_ratio: share of the budget for clusters, in [0, 1].
        knn: neighbours that a cluster density averages over.
        text_weight: weight of the text's attention in the inner stage, in [0, 1]; similarity to the text has
            the rest.
        keep_ratio: share of the visual tokens kept inside, in (0, 1]. 1: no inner stage.
        inner_layer: layer before which the inner stage acts, 0-based, from 1 on. None: `round(layers * 18 /
            28)`.
    """

    similarity_threshold: float = 0.7
    cluster_ratio: float = 0.3
    knn: int = 7
    text_weight: float = 0.5
    keep_ratio: float = 0.5
    inner_layer: int | None = None

    needs_importance: ClassVar[bool] = True
    usual: ClassVar[dict[str, str]] = {"inner_layer": "18 of 28"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_similarities("similarity_threshold")
        self._check_shares("cluster_ratio", "text_weight")
        self._check_counts("knn")
        self._check_layers("inner_layer")
        require("keep_ratio", self.keep_ratio, "a number in (0, 1]", lambda v: 0 < v <= 1)

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        count = self.merged_count(frames, tokens)
        place = torch.arange(frames * tokens, device=video.features.device)
        if count == len(place):  # every token stays, in the pool or as a cluster of one
            return all_of(video)
        products = Products(finite_vectors(video.features).flatten(0, 1))
        wanted = count - round(self.cluster_ratio * count)
        picks, admitted = unlike(products, video.importance.flatten(), wanted, self.similarity_threshold)
        found = int(to_host(admitted.sum()))

        pool = torch.zeros_like(place, dtype=torch.bool).scatter(0, picks[:found], True)
        if found == count:
            return assemble(video, [unchanged(compact(pool, count))])
        center, nearest = density_peaks(products, ~pool, count - found, self.knn)
        chosen = pool | center
        at, number = compact(chosen, count), chosen.cumsum(0) - 1
        owner = number[torch.where(pool, place, nearest)]
        return assemble(video, [averaged(video, at, owner)], stages={"pool": found})

    @property
    def merges_inside(self) -> bool:
        return self.keep_ratio < 1

    def without_inner(self) -> Unified:
        """The outer stage alone: `keep_ratio=1`."""
        return replace(self, keep_ratio=1)

    def inner(self, num_layers: int) -> tuple[TextAwareStage, ...]:
        """The text-aware stage at `inner_layer`.

        Raises:
            SettingsError: the model has no such layer.
        """
        if not self.merges_inside:
            return ()
        layer = max(1, round(num_layers * 18 / 28)) if self.inner_layer is None else self.inner_layer
        require_layer(layer, num_layers)
        return (TextAwareMerge(layer, self.keep_ratio, self.text_weight),)


def unlike(products: Products, importance: Tensor, wanted: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Choose tokens by falling importance, each less similar than `threshold` to all chosen before.

    Args:
        products: scalar products of all `P` tokens.
        importance: `[P]`; what is not a number ranks behind all numbers.
        wanted: largest number of tokens to choose.
        threshold: cosine similarity at which a token is passed over.

    Returns:
        `[wanted]` int64: places of the chosen tokens, then filling; `[wanted]` bool: which are chosen.
    """
    score = rankable(importance)
    norm = products.square.sqrt().clamp_min(1e-8)
    bound = threshold * norm
    picks, scores = [score.new_zeros(0, dtype=torch.int64)], [score[:0]]
    for _ in range(wanted):
        best, pick = score.max(0, keepdim=True)
        near = products.row(pick) >= bound * norm[pick]
        score.masked_fill_(near, -torch.inf).index_fill_(0, pick, -torch.inf)
        picks.append(pick)
        scores.append(best)
    return torch.cat(picks), torch.cat(scores) > -torch.inf


@dataclass(frozen=True)
class TextAwareMerge:
    """Keep the visual tokens that the text attends to or resembles; merge the others into the most similar.

    Attributes:
        layer: acts on the hidden states that enter this layer (0-based).
        keep_ratio: share of the visual tokens kept.
        text_weight: weight of attention, in [0, 1]; similarity has the rest.
        own_attention: whether `layer`'s own attention ranks; False, as in the paper: that of the layer
            before.
        needs_text: True: the stage is called with the text's hidden states.
    """

    layer: int
    keep_ratio: float = 0.5
    text_weight: float = 0.5
    own_attention: bool = False
    needs_text: ClassVar[bool] = True

    def keep(self, visual: int) -> int:
        """`round(V * keep_ratio)` of `visual` tokens, at least one."""
        return kept_share(self.keep_ratio, visual)

    def __call__(self, hidden: Tensor, attention: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce one row's visual tokens.

        Args:
            hidden: `[V, D]`: the visual tokens that enter `layer`.
            attention: `[Q, V]`: attention of each token of the text behind the video to each visual token in
                `layer - 1`, averaged over heads.
            text: `[Q, D]`: hidden states of that text that enter `layer`.

        Returns:
            Kept indices `[K]`, ascending, and merged features `[K, D]`.
        """
        kept, dropped = most_attended(self.score(hidden, attention, text), self.keep(len(hidden)))
        return kept, merge_into_most_similar(hidden, kept, dropped)

    def score(self, hidden: Tensor, attention: Tensor, text: Tensor) -> Tensor:
        """`[V]`: `text_weight A + (1 - text_weight) S`, each the largest over the text, scaled to [0, 1]."""
        seen = attention.detach().float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).amax(0)
        alike = (unit_vectors(text) @ unit_vectors(hidden).T).amax(0)
        return self.text_weight * unit_range(seen) + (1 - self.text_weight) * unit_range(alike)
