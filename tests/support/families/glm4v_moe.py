"""GLM-4.5V: a mixture of experts behind GLM-4.1V's tower and processor."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

from support.families import Family
from support.families.glm4v import IDS, LANGUAGE, TOKENS, TOWER, processor


def build(attention: str, dtype: torch.dtype) -> Any:
    experts = {
        "head_dim": 16,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    }
    config = Glm4vMoeConfig(text_config={**LANGUAGE, **experts}, vision_config=TOWER, **IDS)
    return Glm4vMoeForConditionalGeneration._from_config(config, attn_implementation=attention)


FAMILY = Family(build, processor, TOKENS, images=False, beams=False)
