"""What an adapter tells of videos: encoded images that are no videos yet, and the tokens that are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holitom.ops.host import sent
from holitom.tokens import VideoTokens

Read = Mapping[str, Tensor]
"""What a method reads of the vision tower, for each patch, by the field of `VideoTokens` that it becomes:
"importance" and "shallow" `[F, P]` or `[P]`, "keys" `[F, P, d]` or `[P, d]`."""


def of_tokens(
    read: Read, features: Sequence[Tensor], pool: Callable[[Tensor], Sequence[Tensor]]
) -> list[dict[str, Any]]:
    """Pool what was read from patches to tokens.

    Args:
        read: what was read.
        features: `[..., D]`: the tokens of each video.
        pool: makes a tensor for the tokens of each video of one for all patches.

    Returns:
        For each video the fields of `VideoTokens` by name; importance is zero where it was not read.
    """
    found: list[dict[str, Any]] = [{} for _ in features]
    if "importance" not in read:
        found = [{"importance": torch.zeros(own.shape[:-1], device=own.device)} for own in features]
    for name, patches in read.items():
        for fields, own in zip(found, pool(patches), strict=True):
            fields[name] = own
    return found


@dataclass(frozen=True)
class SentTokens:
    """Tokens that replace one video's placeholders, in the order in which they are sent.

    Attributes:
        features: `[S, D]`: merged tokens and the family's own separators (newlines).
        slot: `[S]` int64: the placeholder (0-based, within its video) that each token stands at.
        streams: `[S, E]`: the merged tokens' streams; None where the family has none.
        place: `[S]` int64: the place `t * N + n` of each token in the video, -1 for a separator. None: the
            same as `slot`.
    """

    features: Tensor
    slot: Tensor
    streams: Tensor | None = None
    place: Tensor | None = None

    @property
    def carried(self) -> Tensor:
        """Features and streams side by side, `[S, D + E]`."""
        return self.features if self.streams is None else torch.cat([self.features, self.streams], dim=-1)


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images, some of which are frames of videos; only the prompt tells which.

    Attributes:
        features: `[S, D]`: the tokens of all images, one image after the other.
        importance: `[S]` float32, as in `VideoTokens`.
        sizes: rows and columns of each image's tokens.
        keys: `[S, d]`, as in `VideoTokens`; None where the method needs none.
        shallow: `[S]` float32, as in `VideoTokens`; None where the method needs none.
        left: `[S]` bool on the host: whether the tower has left the token's image, where it merges whole
            frames; None: all are left.
        timed: as in `VideoTokens`.
    """

    features: Tensor
    importance: Tensor
    sizes: tuple[tuple[int, int], ...]
    keys: Tensor | None = None
    shallow: Tensor | None = None
    left: Tensor | None = None
    timed: bool = False

    def frames(self, tokens: Tensor, grid: tuple[int, int], count: int) -> VideoTokens:
        """Select the tokens `tokens` `[T * N]` int64 as a video of `count` frames with `grid` each."""
        at = sent(tokens, self.features.device)
        keys = None if self.keys is None else self.keys[at].view(count, -1, self.keys.shape[-1])
        features = self.features[at].view(count, -1, self.features.shape[-1])
        left = None if self.left is None else self.left[tokens.view(count, -1)[:, 0]].nonzero()[:, 0]
        return VideoTokens(
            features,
            self.importance[at].view(count, -1),
            grid,
            keys,
            shallow=None if self.shallow is None else self.shallow[at].view(count, -1),
            left=None if left is None or len(left) == count else tuple(left.tolist()),
            timed=self.timed,
        )
