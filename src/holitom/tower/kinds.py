"""The table of vision towers that can reuse: pixel normalisation, threshold, parts of an attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from holitom.errors import UnsupportedModelError
from holitom.models.base import Adapter

HALF = (0.5, 0.5, 0.5)
CLIP = (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.229, 0.224, 0.225)

THRESHOLD = 16.0
"""In levels of 0..255: above sensor noise and flicker, below the change by an object (docs/tower.md)."""


@dataclass(frozen=True)
class Kind:
    """One kind of vision tower.

    Attributes:
        frames: shape of the hidden states: "stacked" `[F, P, D]`, or "packed" `[P, D]`, ordered by blocks.
        std: the processor's divisor of each channel in published checkpoints.
        projections: names of the attention's projections to queries, keys and values (or of one for all
            three), and last of its output projection.
        norm: whether queries and keys are normalised before or after they are divided into heads, or not.
        leading: number of tokens of a frame before its patches (class tokens).
        windows: whether tokens are ordered by window.
        tupled: whether attention returns its weights too.
        threshold: the threshold where `Reuse.threshold` is None.
    """

    frames: Literal["stacked", "packed"]
    std: tuple[float, float, float]
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    norm: Literal["none", "before", "after"] = "none"
    leading: int = 0
    windows: bool = False
    tupled: bool = True
    threshold: float = THRESHOLD


def _blocks(std: tuple[float, float, float], **differs: Any) -> Kind:
    """Qwen2-VL's tower and its descendants."""
    return Kind("packed", std, **{"projections": ("qkv", "proj"), "tupled": False, **differs})


KINDS = {
    "siglip_vision_model": Kind("stacked", HALF),
    "siglip": Kind("stacked", HALF),
    "smolvlm_vision": Kind("stacked", HALF),
    "clip_vision_model": Kind("stacked", CLIP, leading=1),
    "internvl_vision": Kind(
        "stacked",
        IMAGENET,
        projections=("q_proj", "k_proj", "v_proj", "projection_layer"),
        norm="before",
        leading=1,
    ),
    "video_llama_3_vision": Kind("packed", HALF),
    "qwen2_vl_vision": _blocks(CLIP),
    "qwen2_5_vl_vision": _blocks(CLIP, windows=True),
    "qwen2_5_omni_vision_encoder": _blocks(CLIP, windows=True, projections=("q", "k", "v", "proj")),
    "qwen3_vl_vision": _blocks(HALF),
    "qwen3_vl_moe_vision": _blocks(HALF),
    "qwen3_5_vision": _blocks(HALF),
    "qwen3_5_moe_vision": _blocks(HALF),
    "qwen3_omni_moe_vision_encoder": _blocks(HALF),
    "glm4v_vision": _blocks(CLIP),
    "glm4v_moe_vision": _blocks(CLIP),
    "glm_ocr_vision": _blocks(CLIP, norm="after"),
}

CANNOT = {
    "minicpmv4_6_vision": "it cuts frames into slices and merges 2 x 2 patches between two of its layers",
    "minicpmv4_7_vision": "it cuts frames into slices and merges 2 x 2 patches between two of its layers",
}


def kind_of(adapter: Adapter) -> Kind:
    """The kind of the vision tower of `adapter`'s model.

    Raises:
        UnsupportedModelError: the tower cannot reuse, or is not known.
    """
    trunk: Any = adapter.trunk
    return kind_named(trunk.config.vision_config.model_type, type(trunk).__name__)


def kind_named(name: str, model: str) -> Kind:
    """The kind of a vision tower whose config's `model_type` is `name`, in a model of class `model`.

    Raises:
        UnsupportedModelError: such a tower cannot reuse, or is not known.
    """
    if name not in KINDS:
        why = CANNOT.get(name, f"supported: {', '.join(sorted(KINDS))}")
        raise UnsupportedModelError(
            f"reuse in the vision tower is not supported for {model}'s tower of type {name!r}: {why}; leave "
            "reuse off"
        )
    return KINDS[name]
