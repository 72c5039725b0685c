"""GLM-4.1V, GLM-4.5V and GLM-4.6V: time stamps behind frames, and image placeholders for video tokens."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers.models.glm4v import modeling_glm4v as dense
from transformers.models.glm4v_moe import modeling_glm4v_moe as mixture

from holitom.models.packed import PackedTower


class Glm4v(PackedTower):
    """Adapter for `transformers.Glm4vForConditionalGeneration`.

    Its prompts show a video's frames as images between `<|begin_of_video|>` and `<|end_of_video|>`.
    """

    family: ClassVar[str] = "GLM-4.1V"
    token: ClassVar[str] = "image_token_id"
    rotate = staticmethod(dense.apply_rotary_pos_emb)
    rotate_vision = staticmethod(dense.apply_rotary_pos_emb_vision)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        begun = self.is_token(input_ids, self.config.video_start_token_id).cumsum(1)
        ended = self.is_token(input_ids, self.config.video_end_token_id).cumsum(1)
        return super().placeholders(input_ids) & (begun > ended)


class Glm46V(Glm4v):
    """Adapter for `transformers.Glm46VForConditionalGeneration`, whose parts are GLM-4.1V's."""

    family: ClassVar[str] = "GLM-4.6V"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {
        "text_config": ("glm4v_text",),
        "vision_config": ("glm4v_vision",),
    }


class Glm4vMoe(Glm4v):
    """Adapter for `transformers.Glm4vMoeForConditionalGeneration`, which rotates halves rather than pairs."""

    family: ClassVar[str] = "GLM-4.5V"
    rotate = staticmethod(mixture.apply_rotary_pos_emb)
    rotate_vision = staticmethod(mixture.apply_rotary_pos_emb_vision)
