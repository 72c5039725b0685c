"""GLM-OCR (0.9B): GLM-4.1V's prompts, and a tower that normalises queries and keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.glm_ocr import modeling_glm_ocr as code

from holitom.models.glm4v import Glm4v


class GlmOcr(Glm4v):
    """Adapter for `transformers.GlmOcrForConditionalGeneration`."""

    name = "GLM-OCR"
    rotate = staticmethod(code.apply_rotary_pos_emb)
    rotate_vision = staticmethod(code.apply_rotary_pos_emb_vision)

    def _projected(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        attention: Any = self.vision_attention
        query, key = super()._projected(hidden)
        return attention.q_norm(query), attention.k_norm(key)
