"""Model families: the only place that knows how each one is built. One row a family."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from torch import nn

from holitom.errors import UnsupportedModelError

if TYPE_CHECKING:
    from holitom.models.base import Adapter

FAMILIES = {
    "LlavaOnevisionForConditionalGeneration": "holitom.models.llava_onevision:LlavaOnevision",
    "Qwen2VLForConditionalGeneration": "holitom.models.qwen2_vl:Qwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "holitom.models.qwen2_5_vl:Qwen25VL",
    "Qwen3VLForConditionalGeneration": "holitom.models.qwen3_vl:Qwen3VL",
    "Qwen3VLMoeForConditionalGeneration": "holitom.models.qwen3_vl:Qwen3VL",
    "Glm4vForConditionalGeneration": "holitom.models.glm4v:Glm4v",
    "Glm46VForConditionalGeneration": "holitom.models.glm4v:Glm4v",
    "Glm4vMoeForConditionalGeneration": "holitom.models.glm4v:Glm4vMoe",
}


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of `model`, by the name of its class or of a class that it derives from.

    Raises:
        UnsupportedModelError: no family has that class, or its code came with its checkpoint.
    """
    classes = type(model).__mro__
    for base in classes:
        if base.__name__ in FAMILIES and not _came_with_a_checkpoint(base):
            module, _, name = FAMILIES[base.__name__].partition(":")
            adapter: Adapter = getattr(import_module(module), name)(model)
            return adapter
    name = type(model).__name__
    if any(map(_came_with_a_checkpoint, classes)):
        raise UnsupportedModelError(
            f"{name} runs code that came with its checkpoint; load one in the transformers format, without "
            "trust_remote_code"
        )
    nearest = get_close_matches(name, FAMILIES, n=1, cutoff=0.0)[0]
    raise UnsupportedModelError(
        f"no adapter for a model of class {name}; the nearest that has one is {nearest}. "
        "docs/adding-a-model.md tells how to add a family"
    )


def _came_with_a_checkpoint(kind: type) -> bool:
    """Whether a class is remote code (`trust_remote_code`), which may do anything under any name."""
    return kind.__module__.startswith("transformers_modules")
