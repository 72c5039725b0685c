"""EVS: efficient video sampling (arXiv 2510.14624): drop tokens that equal the frame before."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from holitom.methods.base import Method
from holitom.methods.parts import assemble, unchanged
from holitom.ops.ragged import compact, top_mask
from holitom.ops.segmentation import neighbour_similarity
from holitom.tokens import MergedTokens, VideoTokens


@dataclass(frozen=True)
class EVS(Method):
    """Keep the whole first frame, and the tokens of the video with the least `cos(x[t-1,n], x[t,n])`.

    In total `max(N, int(r T N))` tokens stay, a count that depends on the shape alone. It is at least one
    frame, so more tokens stay than asked where `r` is below `1 / T`. It takes no device synchronisation.

    Attributes:
        retain_ratio: share of the visual tokens that goes into the language model, in (0, 1]; the first frame
            stays whole at any ratio.
    """

    def merged_count(self, frames: int, tokens: int) -> int:
        return max(tokens, int(self.retain_ratio * frames * tokens))

    def merge(self, video: VideoTokens) -> MergedTokens:
        frames, tokens, _ = video.features.shape
        change = 1 - neighbour_similarity(video.features)
        first = change.new_full((1, tokens), torch.inf)
        count = self.merged_count(frames, tokens)
        kept = top_mask(torch.cat([first, change]).view(1, -1), count)
        return assemble(video, [unchanged(compact(kept, count))])
