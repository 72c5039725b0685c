"""HoliTom+: HoliTom (arXiv 2505.21334) with budgets and rankings over the whole video.

docs/improvements.md compares it with HoliTom. Its outer stage differs as follows:

1. *Runs instead of segments.* Every position is averaged over each of its own static runs, not only where it
   is static throughout a segment (`ops.runs`). A passing object ends the averages of the positions that it
   passes, and of no others.
2. *One ranking instead of one per frame.* The most important runs of the whole video are kept; a frame that
   shows nothing new needs no tokens of its own.
3. *Appearing and disappearing.* A run's importance counts in full where no token of the frame before, or none
   of the frame after, is like it (at any position, so an object that moves is found again), and little where
   both frames have a similar token. The first and the last view of a moving object are so kept before the
   views between.
4. *Clusters in proportion to new runs.* A share of the budget goes to DPC-KNN centres among the other runs,
   split among frames in proportion to the runs that begin there: most goes to new scenes, none to still
       frames.
5. *Exact budgets.* `merged_count(T, N)` tokens are sent, whatever the video shows.

6. *Nothing averaged on a time axis.* Where tokens keep their positions in time (Qwen's families, GLM,
   MiniCPM-V 4.7), an averaged token stands at the first of its frames alone, and the language model loses
   when a scene shows it. There every token is a run of its own.

In its inner stage, the first layer that has fewer tokens ranks them itself (`inner_attention="own"`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from holitom.methods.holitom import HoliTom
from holitom.methods.parts import Part, assemble
from holitom.ops.budgets import largest_remainder
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import compact, top_mask
from holitom.ops.runs import Runs, average_runs, comes_and_goes, frame_similarity, run_heads, run_of
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class HoliTomPlus(HoliTom):
    """HoliTom's similarity, importance, clustering and inner stage, over runs of the whole video.

    It compares every token with all tokens of the next frame, `2 T N^2 D` = 8.8 GFLOP for 32 frames of 196
    tokens, 3584 wide, where HoliTom compares it with one, so it takes 5 times as long on two
    CPU cores. Fields are those of `HoliTom`; only those that are new or differ are listed.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1], exactly.
        similarity_threshold: None: 0.8 at every ratio; 1, so that nothing is averaged over time, in models
            whose tokens keep their positions in time (`VideoTokens.timed`).
        passing_weight: weight, in [0, 1], of a run that the frames before and after it both match. 1:
            importance alone ranks.
        contextual_ratio: share of the whole budget for cluster centres rather than for the most important
            runs, in [0, 1].
        budget: always "exact".
        inner_attention: "own".
    """

    contextual_ratio: float = 0.4
    budget: Literal["ratio", "exact"] = field(default="exact", init=False)
    inner_attention: Literal["before", "own"] = "own"
    passing_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_shares("passing_weight")

    @property
    def threshold(self) -> float:
        return 0.8 if self.similarity_threshold is None else self.similarity_threshold

    def merge(self, video: VideoTokens) -> MergedTokens:
        """Merge one video's tokens, with two device synchronisations for any length."""
        frames, tokens, _ = video.features.shape
        count = self.merged_count(frames, tokens)
        contextual = round(count * self.contextual_ratio)

        similarity = frame_similarity(video.features)
        alike = 1.0 if video.timed and self.similarity_threshold is None else self.threshold
        heads, total = run_heads(similarity.diagonal(dim1=1, dim2=2), alike, least=count)
        runs = average_runs(video.carried, video.importance, heads, total)

        comes, goes = comes_and_goes(similarity)
        change = torch.maximum(comes.flatten()[runs.at], goes.flatten()[runs.end])
        score = runs.importance * (self.passing_weight + (1 - self.passing_weight) * change)
        important = top_mask(score[None], count - contextual)[0]
        at = compact(important, count - contextual)
        parts = [Part(runs.at[at], runs.size[at], runs.means[at])]
        if contextual:
            parts.append(self._of_frames(video, runs, ~important, contextual))
        return assemble(video, [_in_order(parts)], stages={"temporal": total}, via=lambda: run_of(heads))

    def _of_frames(self, video: VideoTokens, runs: Runs, rest: Tensor, budget: int) -> Part:
        """Cluster the runs that begin in each frame, into `budget` centres in total."""
        frames, tokens, _ = video.features.shape
        frame = runs.at // tokens
        sizes = to_host(frame.new_zeros(frames).scatter_add(0, frame, rest.long()))
        budgets = largest_remainder(sizes, budget)
        budgeted = budgets > 0
        at = compact(rest & to_device(budgeted, rest.device)[frame], int(sizes[budgeted].sum()))
        return self._clustered(video)(
            runs.means[at], runs.at[at], sizes[budgeted], budgets[budgeted], standing_for=runs.size[at]
        )


def _in_order(parts: list[Part]) -> Part:
    """Join parts into one, in the order of places, which is that of the unmerged prompt."""
    at, order = torch.cat([part.at for part in parts]).sort()
    merged = torch.cat([part.merged for part in parts if part.merged is not None])
    size = torch.cat([part.size for part in parts])
    if parts[-1].member is None or parts[-1].owner is None:
        return Part(at, size[order], merged[order])
    # `owner` counts the last part's tokens, which have other indices in the sorted part.
    owner = order.argsort()[len(at) - len(parts[-1].at) + parts[-1].owner]
    return Part(at, size[order], merged[order], parts[-1].member, owner)
