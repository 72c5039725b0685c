"""LLaVA-OneVision: one position axis, one size of frames, a newline token behind a video."""

from __future__ import annotations

from support.families import Family
from support.tiny import SIDE, build_model, build_processor

FAMILY = Family(
    model=lambda attention, dtype: build_model(attention, dtype),
    processor=build_processor,
    videos=((8, SIDE, SIDE), (8, SIDE, SIDE)),
)
