"""Weights under the names of published checkpoints, which vLLM and older transformers read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

TOWER, PUBLISHED = "vision_tower.", "vision_tower.vision_model."


def published(name: str) -> str:
    """transformers 5 writes `vision_tower.x`; published checkpoints have `vision_model` in between."""
    inside = name.startswith(TOWER) and not name.startswith(PUBLISHED)
    return name.replace(TOWER, PUBLISHED, 1) if inside else name


def rename(weights: Path) -> None:
    """Give the weights in this file their published names."""
    renamed = {published(name): weight.contiguous() for name, weight in load_file(weights).items()}
    save_file(renamed, weights, metadata={"format": "pt"})
