"""InternVL3.5 with a mixture of experts (30B-A3B)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import Qwen3MoeConfig

from support.families.internvl import FAMILY as DENSE
from support.families.internvl import build as dense
from support.families.qwen3_vl_moe import EXPERTS


def build(attention: str, dtype: torch.dtype) -> Any:
    return dense(attention, dtype, Qwen3MoeConfig, **EXPERTS)


FAMILY = replace(DENSE, model=build)
