"""Qwen2.5-Omni and Qwen3-Omni: their thinkers, which take video and audio and answer in text.

They are the vision language models of their generation with an audio tower beside the vision tower. Audio
tokens, also those of a sound track between a video's frames, count as text and stay.
"""

from __future__ import annotations

from typing import ClassVar

from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni_2_5
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni_3

from holitom.models.qwen2_5_vl import Qwen25VL
from holitom.models.qwen3_vl import Qwen3VL


class Qwen25Omni(Qwen25VL):
    """Adapter for `transformers.Qwen2_5OmniThinkerForConditionalGeneration`."""

    family: ClassVar[str] = "Qwen2.5-Omni"
    rotate = staticmethod(omni_2_5.apply_rotary_pos_emb)
    rotate_vision = staticmethod(omni_2_5.apply_rotary_pos_emb_vision)
    projections: ClassVar[dict[str, str]] = {"q": "q", "k": "k"}
    speaks: ClassVar[bool] = True


class Qwen3Omni(Qwen3VL):
    """Adapter for `transformers.Qwen3OmniMoeThinkerForConditionalGeneration`."""

    family: ClassVar[str] = "Qwen3-Omni"
    rotate = staticmethod(omni_3.apply_rotary_pos_emb)
    rotate_vision = staticmethod(omni_3.apply_rotary_pos_emb_vision)
    speaks: ClassVar[bool] = True
