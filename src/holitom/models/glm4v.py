"""GLM-4.1V, GLM-4.5V and GLM-4.6V: time stamps behind frames, and image placeholders for video tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import Glm4vVideoProcessor
from transformers.models.glm4v import modeling_glm4v as dense
from transformers.models.glm4v_moe import modeling_glm4v_moe as mixture

from holitom.models.multi_axis import MultiAxis


class Glm4v(MultiAxis):
    """Adapter for `transformers.Glm4vForConditionalGeneration`.

    Its prompts show a video's frames as images between `<|begin_of_video|>` and `<|end_of_video|>`.
    """

    name = "GLM-4.1V"
    rotate = staticmethod(dense.apply_rotary_pos_emb)
    rotate_vision = staticmethod(dense.apply_rotary_pos_emb_vision)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        begun = (input_ids == self._config.video_start_token_id).cumsum(1)
        ended = (input_ids == self._config.video_end_token_id).cumsum(1)
        shown: Tensor = (input_ids == self._config.image_token_id) & (begun > ended)
        return shown

    def video_processor(self) -> Any:
        return Glm4vVideoProcessor()


class Glm46V(Glm4v):
    """Adapter for `transformers.Glm46VForConditionalGeneration`: GLM-4.1V's parts, which are not its own."""

    name = "GLM-4.6V"
    parts: ClassVar[dict[str, str]] = {"text_config": "glm4v_text", "vision_config": "glm4v_vision"}


class Glm4vMoe(Glm4v):
    """Adapter for `transformers.Glm4vMoeForConditionalGeneration`, which rotates halves rather than pairs."""

    name = "GLM-4.5V"
    rotate = staticmethod(mixture.apply_rotary_pos_emb)
    rotate_vision = staticmethod(mixture.apply_rotary_pos_emb_vision)
