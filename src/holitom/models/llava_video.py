"""LLaVA-Video (7B, 72B): LLaVA-OneVision's parts, 2x2 average pooling, a newline token after every grid row."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from holitom.models.base import SentTokens
from holitom.models.llava_onevision import LlavaOnevision
from holitom.ops.layout import grid_order
from holitom.tokens import MergedTokens, VideoTokens


class LlavaVideo(LlavaOnevision):
    """Adapter for `holitom.models.modeling_llava_video.LlavaVideoForConditionalGeneration`."""

    family: ClassVar[str] = "LLaVA-Video"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        side: int = model.config.video_side  # type: ignore[union-attr, assignment]
        self._grid = (side, side)

    def _features(self, sent: Tensor) -> Tensor:
        rows, columns = self._grid
        return sent.unflatten(1, (-1, rows, columns + 1))[..., :columns, :]

    def slots(self, video: VideoTokens) -> int:
        rows, columns = video.grid
        return video.features.shape[0] * rows * (columns + 1)

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        newline: Tensor = self.trunk.image_newline  # type: ignore[assignment]
        rows, columns = video.grid
        laid = grid_order(merged, video.grid, newline)
        slot = laid.frame * rows * (columns + 1) + laid.position + laid.position // columns
        # A newline stands right behind a token of its row, whatever tokens that row has left.
        before = slot.roll(1)
        slot = slot.where(laid.position >= 0, before - before % (columns + 1) + columns)
        return SentTokens(features=laid.features, slot=slot)
