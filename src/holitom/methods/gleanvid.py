"""GleanVID (arXiv 2609.37042): frames are paid for what their past does not span, and so are tokens.

An independent implementation from the paper; no code is public.
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
from holitom.ops.ragged import Sizes, compact, top_mask
from holitom.ops.similarity import finite_vectors, unit_vectors
from holitom.ops.spans import Cells, Span, past_novelty, principal_directions
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class GleanVID(Method):
    """Tokens as they are: those that the tokens kept so far do not span, and that stand out in their cell.

    1. *Debias.* `x' = x` without what all tokens share: the first `rank` principal directions of the video.
    2. *Novelty.* Frames are cut into cells of `cell x cell` places, smaller at odd edges. `rho[t,c]` is how
       far the mean of `x'` over a cell is from the span of that cell's means in all earlier frames (ridge
       1e-4); `R[t]` sums it over the frame's tokens.
    3. *Budgets.* With the Gini coefficient `G` of `R` and `al = alpha_max - (alpha_max - alpha_min) G` a
       frame gets `al B / T + (1 - al) B R[t] / sum R`, to the token, none above `N`; `B = max(1, floor(r T
       N))`.
    4. *Tokens*, frame by frame: `v[n]` is how far `x'` is from the span of what earlier frames keep, and
       `u[n] = softplus(s (cos(x, mean of its cell) - cos(x, mean of the frame))) / s`, `s = sharpness`. Each
       is scaled to [0, 1] over the frame; the tokens with the largest `u + v` stay. Then what they add to the
       span joins it, by a QR decomposition in order of place, directions above `tolerance` of the largest.

    Ours: what a full frame cannot use goes to the others in proportion; of a residual below 1e-5 of a token's
    energy nothing counts; where all novelty is 0, frames share alike.

    It reads neither importance nor keys. Two device synchronisations. The frames follow from one another: `T`
    steps of some 25 operations and one QR decomposition of `[D, b[t]]` each. The span holds at most `D`
    directions; from there on `u` alone ranks. Up to 512 channels principal directions are exact; beyond, they
    are those of a block Krylov space (`ops.spans`). Tokens are compared with all that is kept before them, `2
    P B D` = 28 GFLOP for 32 frames of 196 tokens, 3584 wide, at a tenth: it takes many times as long as
    HoliTom.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1].
        alpha_min: share of the budget that frames get alike where all novelty is in one frame, in [0, 1].
        alpha_max: the same where all frames are equally novel, in [0, 1].
        sharpness: of the softplus, above 0.
        tolerance: share of a frame's largest new direction up to which another one does not join, in [0, 1).
        cell: places of a cell each way, from 1 up.
        rank: principal directions taken out, from 0 up.
    """

    alpha_min: float = 0.2
    alpha_max: float = 0.6
    sharpness: float = 4.0
    tolerance: float = 1e-4
    cell: int = 2
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require("alpha_min", self.alpha_min, "a number in [0, 1]", lambda v: 0 <= v <= 1)
        low = self.alpha_min
        require(
            "alpha_max", self.alpha_max, f"a number in [alpha_min, 1] = [{low}, 1]", lambda v: low <= v <= 1
        )
        require("sharpness", self.sharpness, "a number from 1e-3 to 1e3", lambda v: 1e-3 <= v <= 1e3)
        require("tolerance", self.tolerance, "a number in [0, 1)", lambda v: 0 <= v < 1)
        require("cell", self.cell, "a whole number from 1 up", lambda v: v >= 1, whole=True)
        require("rank", self.rank, "a whole number from 0 up", lambda v: v >= 0, whole=True)

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
        """Steps 1 and 2: `R`, `[T]`, of features `[T, N, D]` on a grid `(rows, columns)`."""
        return self._view(features, grid).novelty

    def _view(self, features: Tensor, grid: tuple[int, int]) -> _View:
        features = finite_vectors(features)
        mean, directions = principal_directions(features.flatten(0, 1), self.rank)
        cells = Cells(grid, self.cell, features.device)
        means = cells.means(features)
        novelty = past_novelty(debiased(means, mean, directions)) @ cells.size
        return _View(features, mean, directions, cells.spread(means), novelty)

    def _budgets(self, novelty: npt.NDArray[np.float64], count: int, tokens: int) -> Sizes:
        """Step 3: `[T]` tokens of each frame."""
        frames, total = len(novelty), novelty.sum()
        even = np.full(frames, 1 / frames)
        share = novelty / total if total > 0 else even
        alike = self.alpha_max - (self.alpha_max - self.alpha_min) * gini(share)
        weight = np.maximum(alike * even + (1 - alike) * share, 1e-12)
        return apportion(weight, count, np.full(frames, tokens))

    def _tokens(self, view: _View, budget: Sizes) -> Tensor:
        """Step 4: `[T, N]` bool, `budget[t]` true in frame `t`."""
        features = view.features
        unit = unit_vectors(features)
        contrast = (unit * (unit_vectors(view.local) - unit_vectors(features.mean(1, keepdim=True)))).sum(-1)
        prominence = scaled(F.softplus(self.sharpness * contrast, threshold=torch.inf) / self.sharpness)

        wanted = to_device(budget[:, None], features.device)
        kept, span = torch.zeros_like(prominence, dtype=torch.bool), Span(features.shape[2], features.device)
        for frame in range(len(budget)):
            tokens_here = debiased(features[frame], view.mean, view.directions)
            residual = span.residual(tokens_here)
            score = prominence[frame] + scaled(torch.linalg.vector_norm(residual, dim=-1)[None])[0]
            kept[frame] = top_mask(score[None], wanted[frame : frame + 1])[0]
            if budget[frame] and frame + 1 < len(budget):
                span.add(residual[compact(kept[frame], int(budget[frame]))], self.tolerance)
        return kept


@dataclass(frozen=True)
class _View:
    """A video as the steps see it.

    Attributes:
        features: `[T, N, D]` float32, zero where a token is not finite.
        mean, directions: `[D]` and `[rank, D]`: what all tokens share, see `debiased`.
        local: `[T, N, D]`: the mean of each token's cell.
        novelty: `[T]`: what each frame's past does not span.
    """

    features: Tensor
    mean: Tensor
    directions: Tensor
    local: Tensor
    novelty: Tensor


def debiased(features: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Features less their part along `directions` (`[rank, D]`), about `mean` (`[D]`)."""
    return features - (features - mean) @ directions.T @ directions


def gini(share: npt.NDArray[np.float64]) -> float:
    """Gini coefficient of shares that sum to 1: 0 where all are alike."""
    count = len(share)
    rank = np.arange(1, count + 1)
    return float(2 * (rank * np.sort(share)).sum() / count - (count + 1) / count)


def scaled(score: Tensor) -> Tensor:
    """Rows `[G, N]` scaled to [0, 1]; a constant row becomes 0."""
    low, high = score.aminmax(dim=1, keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (score - low) / spread, 0.0)
