"""DyCoke: dynamic compression of tokens (arXiv 2411.15024), the paper's temporal token merging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from holitom.errors import SettingsError
from holitom.methods.base import Method
from holitom.methods.parts import assemble, unchanged
from holitom.ops.budgets import largest_remainder
from holitom.ops.host import to_device
from holitom.ops.ragged import Sizes, compact, top_mask
from holitom.ops.segmentation import neighbour_similarity
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class DyCoke(Method):
    """Keep the first frame of every window of 4 whole, and the tokens of the others that changed.

    Frames 2 and 4 are compared with the frame before them, frame 3 with frame 1, position by position; each
    keeps the share `1 - p` of its tokens that is least cosine-similar. The paper's `p` = 0.7 keeps
    `(1 + 3 * 0.3) / 4 = 0.475` of all tokens, the default here; for other ratios `p` is solved. In total
    `max(W N, round(r T N))` tokens stay, where `W = ceil(T / 4)` frames are whole: a last window of fewer
    frames may keep a little more than asked. It takes no device synchronisation.

    The paper's second part, dropping keys and values while decoding, is not included.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in [1 / window, 1].
        prune: `p`, in [0, 1]: frames that are not whole keep `int((1 - p) N)` tokens, and `retain_ratio` is
            ignored. None: solved for `retain_ratio`.
        window: frames of a window, from 2 up. In longer windows too, every second frame is compared with the
            frame before it, and the others with the frame two before.
    """

    retain_ratio: float = 0.475
    prune: float | None = None
    window: int = 4

    usual: ClassVar[dict[str, str]] = {"prune": "from retain_ratio"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("window", least=2)
        self._check_shares("prune")
        if self.prune is None and self.retain_ratio < 1 / self.window:
            raise SettingsError(
                f"DyCoke keeps the first of every {self.window} frames whole: retain_ratio must be in "
                f"[{1 / self.window:.4g}, 1], got {self.retain_ratio!r}"
            )

    def merged_count(self, frames: int, tokens: int) -> int:
        return int(self._budget(frames, tokens).sum())

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        frame = np.arange(frames)
        budget = self._budget(frames, tokens)
        table = np.stack([frame % self.window % 2, budget])[:, :, None]
        odd, keep = to_device(table, video.features.device).unbind()

        one, two = (neighbour_similarity(video.features, apart=apart) for apart in (1, 2))
        first = video.features.new_ones((2, tokens), dtype=torch.float32)  # no frame to compare with
        one, two = torch.cat([first[:1], one]), torch.cat([first[:frames], two])
        kept = top_mask(1 - torch.where(odd > 0, one, two), keep)
        return assemble(video, [unchanged(compact(kept, int(budget.sum())))])

    def _budget(self, frames: int, tokens: int) -> Sizes:
        """Number of tokens that each frame keeps: all in the first of a window, equal shares in the
        others."""
        whole = np.arange(frames) % self.window == 0
        if self.prune is not None:
            return np.where(whole, tokens, int((1 - self.prune) * tokens + 1e-9))
        left = round(self.retain_ratio * frames * tokens) - int(whole.sum()) * tokens
        return np.where(whole, tokens, largest_remainder(np.where(whole, 0, tokens), max(0, left)))
