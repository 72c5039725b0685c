"""GleanVID (arXiv 2609.37042): budgets and tokens by what earlier frames do not span.

This is an independent implementation from the paper; no code is public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from holitom.methods.base import Method, require
from holitom.methods.parts import all_of, assemble, unchanged
from holitom.ops.budgets import apportion
from holitom.ops.host import to_device, to_host
from holitom.ops.ragged import Sizes, compact, top_mask, unit_range
from holitom.ops.similarity import cosines, finite_vectors, inverse_lengths
from holitom.ops.spans import Cells, Span, past_novelty, principal_directions
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class GleanVID(Method):
    """Keep tokens that the span of earlier kept tokens does not contain and that differ from their frame.

    1. *Debias.* `x'` is `x` without its part along the first `rank` principal directions of the video.
    2. *Novelty.* Frames are cut into cells of `cell x cell` positions, smaller at the right and lower edge.
       `rho[t,c]` is the distance of the mean of `x'` over a cell to the span of that cell's means in all
       earlier frames (ridge 1e-4); `R[t]` sums it over the frame's tokens.
    3. *Budgets.* With the Gini coefficient `G` of `R` and `al = alpha_max - (alpha_max - alpha_min) G` a
       frame gets `al B / T + (1 - al) B R[t] / sum R` tokens, at most `N`; `B = max(1, floor(r T N))`.
    4. *Tokens*, frame by frame: `v[n]` is the distance of `x'` to the span of the tokens kept in earlier
       frames, and `u[n] = softplus(s (cos(x, mean of its cell) - cos(x, mean of the frame))) / s` with `s =
       sharpness`. Both are scaled to [0, 1] over the frame; the tokens with the largest `u + v` stay. A QR
       decomposition in order of position then adds their new directions to the span, those longer than
       `tolerance` times the longest.

    Details of our own: a budget above `N` is shared among the other frames in proportion; a residual below
    1e-5 of its token's squared length counts as 0; where all novelty is 0, frames get equal budgets.

    It reads neither importance nor keys. It takes two device synchronisations. Frames are processed one after
    another: `T` steps of some 25 operations and one QR decomposition of `[D, b[t]]`. The span holds at most
    `D` directions; once it is full `u` alone ranks. Principal directions are exact up to 512 channels; for
    more they come from a block Krylov space (`ops.spans`). Each token is compared with all tokens kept before
    it, `2 P B D` = 28 GFLOP for 32 frames of 196 tokens, 3584 wide, at a retain ratio of 0.1, and the method
    takes 31 times as long as HoliTom on two CPU cores. Budgets of videos of more than 256 frames are
    interpolated (`ops.spans.past_novelty`).

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        alpha_min: share of the budget split evenly among frames where all novelty is in one frame, in [0, 1].
        alpha_max: the same where all frames are equally novel, in [0, 1].
        sharpness: sharpness of the softplus, above 0.
        tolerance: length of a new direction, as a share of the frame's longest, up to which it is not added
            to the span, in [0, 1).
        cell: side of a cell in positions, from 1 up.
        rank: number of principal directions removed, from 0 up.
    """

    alpha_min: float = 0.2
    alpha_max: float = 0.6
    sharpness: float = 4.0
    tolerance: float = 1e-4
    cell: int = 2
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_shares("alpha_min")
        low = self.alpha_min
        require(
            "alpha_max", self.alpha_max, f"a number in [alpha_min, 1] = [{low}, 1]", lambda v: low <= v <= 1
        )
        require("sharpness", self.sharpness, "a number from 1e-3 to 1e3", lambda v: 1e-3 <= v <= 1e3)
        require("tolerance", self.tolerance, "a number in [0, 1)", lambda v: 0 <= v < 1)
        self._check_counts("cell")
        self._check_counts("rank", least=0)

    def merged_count(self, frames: int, tokens: int) -> int:
        return max(1, int(self.retain_ratio * frames * tokens + 1e-6))

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        count = self.merged_count(frames, tokens)
        if count == frames * tokens:
            return all_of(video)
        view = self._view(video.features, video.grid)
        budget = self._budgets(to_host(view.novelty).astype(np.float64), count, tokens)
        return assemble(video, [unchanged(compact(self._tokens(view, budget), count))])

    def novelty(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute `R` `[T]` (steps 1 and 2) of features `[T, N, D]` on a grid `(rows, columns)`."""
        return self._view(features, grid).novelty

    def _view(self, features: Tensor, grid: tuple[int, int]) -> _View:
        features = finite_vectors(features)
        mean, directions = principal_directions(features.flatten(0, 1), self.rank)
        cells = Cells(grid, self.cell, features.device)
        means = cells.means(features)
        novelty = past_novelty(debiased(means, mean, directions)) @ cells.size
        return _View(features, mean, directions, cells, means, novelty)

    def _budgets(self, novelty: npt.NDArray[np.float64], count: int, tokens: int) -> Sizes:
        """Step 3: number of tokens `[T]` of each frame."""
        frames, total = len(novelty), novelty.sum()
        even = np.full(frames, 1 / frames)
        share = novelty / total if total > 0 else even
        alike = self.alpha_max - (self.alpha_max - self.alpha_min) * gini(share)
        weight = np.maximum(alike * even + (1 - alike) * share, 1e-12)
        return apportion(weight, count, np.full(frames, tokens))

    def _tokens(self, view: _View, budget: Sizes) -> Tensor:
        """Step 4: whether each token stays, `[T, N]` bool, `budget[t]` of them in frame `t`."""
        features = view.features
        contrast = contrasts(features, view.cells, view.means)
        prominence = unit_range(F.softplus(self.sharpness * contrast, threshold=torch.inf) / self.sharpness)

        wanted = to_device(budget[:, None], features.device)
        kept = torch.zeros_like(prominence, dtype=torch.bool)
        span = Span(features.shape[2], features.device, int(budget.sum()))
        shared = along(features, view.mean, view.directions)  # [T, N, rank]
        for frame in range(len(budget)):
            here = torch.addmm(features[frame], shared[frame], view.directions, alpha=-1)
            residual = span.residual(here)
            score = prominence[frame] + unit_range(torch.linalg.vector_norm(residual, dim=-1))
            kept[frame] = top_mask(score[None], wanted[frame : frame + 1])[0]
            if budget[frame] and frame + 1 < len(budget):
                span.add(residual[compact(kept[frame], int(budget[frame]))], self.tolerance)
        return kept


@dataclass(frozen=True)
class _View:
    """A video's features, and what steps 1 and 2 compute from them.

    Attributes:
        features: `[T, N, D]` float32, zero where a token is not finite.
        mean, directions: `[D]` and `[rank, D]`: the video's mean and principal directions, see `debiased`.
        cells: the cells of a frame.
        means: `[T, C, D]`: the mean of each cell.
        novelty: `[T]`: `R`.
    """

    features: Tensor
    mean: Tensor
    directions: Tensor
    cells: Cells
    means: Tensor
    novelty: Tensor


def debiased(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Subtract from features `[..., D]` their part along `directions` (`[rank, D]`), about `mean` (`[D]`)."""
    return features - along(features, mean, directions) @ directions


def along(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Lengths `[..., rank]` of features `[..., D]` along `directions` (`[rank, D]`), about `mean` (`[D]`)."""
    return features @ directions.T - directions @ mean


def contrasts(features: Tensor, cells: Cells, means: Tensor) -> Tensor:
    """Cosine similarity of each token with its cell's mean, less that with its frame's mean.

    Args:
        features: `[T, N, D]` float32, finite.
        cells: the cells of a frame.
        means: `[T, C, D]`: their means.

    Returns:
        `[T, N]` float32.
    """
    centres = torch.cat([means, features.mean(1, keepdim=True)], 1)
    products = torch.bmm(features, centres.mT)  # [T, N, C + 1]
    similarity = cosines(products, inverse_lengths(features), inverse_lengths(centres))
    return cells.own(similarity) - similarity[..., -1]


def gini(share: npt.NDArray[np.float64]) -> float:
    """Gini coefficient of shares that sum to 1; 0 where all are equal."""
    count = len(share)
    rank = np.arange(1, count + 1)
    return float(2 * (rank * np.sort(share)).sum() / count - (count + 1) / count)
