"""LLaVA-Video (7B, 72B): LLaVA-OneVision's parts, 2x2 average pooling, a newline after every grid row."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from holitom.models.llava_onevision import LlavaOnevision
from holitom.models.newlines import grid_order
from holitom.models.values import SentTokens
from holitom.tokens import MergedTokens, VideoTokens


class LlavaVideo(LlavaOnevision):
    """Adapter for `holitom.models.modeling_llava_video.LlavaVideoForConditionalGeneration`."""

    family: ClassVar[str] = "LLaVA-Video"
    separators: ClassVar[int] = 0  # they stand in each frame

    def frame_grid(self) -> tuple[int, int]:
        return self.config.video_side, self.config.video_side

    def features(self, sent: Tensor) -> Tensor:
        rows, columns = self.grid
        shape = (len(sent), -1, rows, columns + 1, sent.shape[-1])
        return sent.view(shape)[:, :, :, :columns]  # the last of each row is a newline

    def count(self, frames: int) -> int:
        rows, columns = self.grid
        return frames * rows * (columns + 1)

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        rows, columns = video.grid
        laid = grid_order(merged, video.grid, self.trunk.image_newline)
        slot = laid.frame * rows * (columns + 1) + laid.position + laid.position // columns
        # A newline follows a token of its row, and its slot is the last of that row.
        before = slot.roll(1)
        slot = slot.where(laid.position >= 0, before - before % (columns + 1) + columns)
        place = laid.frame * rows * columns + laid.position
        return SentTokens(laid.features, slot, place=place.where(laid.position >= 0, -1))
