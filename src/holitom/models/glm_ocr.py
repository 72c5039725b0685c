"""GLM-OCR (0.9B): GLM-4.1V's prompts, and a tower that normalises queries and keys."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers.models.glm_ocr import modeling_glm_ocr as code

from holitom.models.glm4v import Glm4v


class GlmOcr(Glm4v):
    """Adapter for `transformers.GlmOcrForConditionalGeneration`."""

    family: ClassVar[str] = "GLM-OCR"
    rotate = staticmethod(code.apply_rotary_pos_emb)
    rotate_vision = staticmethod(code.apply_rotary_pos_emb_vision)

    def heads(self, hidden: Tensor, *which: str) -> list[Tensor]:
        heads = super().heads(hidden, *which)
        return [
            getattr(self.vision_attention, f"{name}_norm")(h) for name, h in zip(which, heads, strict=True)
        ]
