"""Model families: the only place that knows how each one is built. One row a family."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from holitom.errors import UnsupportedModelError

if TYPE_CHECKING:
    from holitom.models.base import Adapter

FAMILIES = {
    "Glm46VForConditionalGeneration": "holitom.models.glm4v:Glm4v",
    "Glm4vForConditionalGeneration": "holitom.models.glm4v:Glm4v",
    "Glm4vMoeForConditionalGeneration": "holitom.models.glm4v:Glm4vMoe",
    "InternVLForConditionalGeneration": "holitom.models.internvl:InternVL",
    "LlavaNextVideoForConditionalGeneration": "holitom.models.llava_next_video:LlavaNextVideo",
    "LlavaOnevisionForConditionalGeneration": "holitom.models.llava_onevision:LlavaOnevision",
    "LlavaVideoForConditionalGeneration": "holitom.models.llava_video:LlavaVideo",
    "MiniCPMV4_6ForConditionalGeneration": "holitom.models.minicpmv:MiniCPMV46",
    "MiniCPMV4_7ForConditionalGeneration": "holitom.models.minicpmv:MiniCPMV47",
    "Qwen2VLForConditionalGeneration": "holitom.models.qwen2_vl:Qwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "holitom.models.qwen2_5_vl:Qwen25VL",
    "Qwen3VLForConditionalGeneration": "holitom.models.qwen3_vl:Qwen3VL",
    "Qwen3VLMoeForConditionalGeneration": "holitom.models.qwen3_vl:Qwen3VL",
    "Qwen3_5ForConditionalGeneration": "holitom.models.qwen3_5:Qwen35",
    "Qwen3_5MoeForConditionalGeneration": "holitom.models.qwen3_5:Qwen35",
    "SmolVLMForConditionalGeneration": "holitom.models.smolvlm:SmolVLM",
    "VideoLlama3ForConditionalGeneration": "holitom.models.video_llama3:VideoLlama3",
}

# Checkpoints in a layout that transformers does not read, by the architecture that they name; and model types
# of ours, whose modules make them known to transformers.
ORIGINALS = {"LlavaQwenForCausalLM": "holitom.models.modeling_llava_video"}
OWN_TYPES = {"llava_video": "holitom.models.modeling_llava_video"}


class Original(Protocol):
    """A module that reads original checkpoints."""

    def load(self, name: str, **settings: Any) -> tuple[Any, Any]:
        """The model and the processor of checkpoint `name`."""

    def converted_config(self, original: dict[str, Any]) -> Any:
        """The transformers config for an original `config.json`."""


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of `model`, by the name of its class or of a class that it derives from.

    Raises:
        UnsupportedModelError: no family has that class or not this variant of it, or its code came with its
            checkpoint.
    """
    classes = type(model).__mro__
    for base in classes:
        if base.__name__ in FAMILIES and not _came_with_a_checkpoint(base):
            adapter: Adapter = _named(FAMILIES[base.__name__])(model)
            return adapter
    name = type(model).__name__
    if any(map(_came_with_a_checkpoint, classes)):
        raise _foreign(name)
    nearest = get_close_matches(name, FAMILIES, n=1, cutoff=0.0)[0]
    raise UnsupportedModelError(
        f"no adapter for a model of class {name}; the nearest that has one is {nearest}. "
        "docs/adding-a-model.md tells how to add a family"
    )


def _came_with_a_checkpoint(kind: type) -> bool:
    """Whether a class is remote code (`trust_remote_code`), which may do anything under any name."""
    return kind.__module__.startswith("transformers_modules")


def _foreign(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} runs code that came with its checkpoint; load one in the transformers format, without "
        "trust_remote_code"
    )


def original_layout(config: dict[str, Any]) -> Original | None:
    """What reads a checkpoint with this `config.json`, or None where transformers does.

    Raises:
        UnsupportedModelError: the checkpoint brings its own code, which no adapter can know.
    """
    if config.get("model_type") in OWN_TYPES:
        import_module(OWN_TYPES[config["model_type"]])
        return None
    architecture = (config.get("architectures") or [""])[0]
    if architecture in ORIGINALS:
        module: Any = import_module(ORIGINALS[architecture])
        original: Original = module
        return original
    from transformers import CONFIG_MAPPING

    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise _foreign(architecture or str(config.get("model_type")))
    return None


def config_of(name: str) -> Any:
    """The transformers config of checkpoint `name`, in whatever layout, or of a config file.

    Raises:
        UnsupportedModelError: the checkpoint brings its own code, or is a variant that is not known.
        OSError: there is no such checkpoint.
    """
    from transformers import AutoConfig, PretrainedConfig

    given = PretrainedConfig.get_config_dict(name)[0]
    original = original_layout(given)
    return AutoConfig.from_pretrained(name) if original is None else original.converted_config(given)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
