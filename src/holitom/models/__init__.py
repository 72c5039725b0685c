"""Adapters for model families: one file and one row of `FAMILIES` for each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from holitom.errors import UnsupportedModelError
from holitom.models.target import advice, target

if TYPE_CHECKING:
    from holitom.models.base import Adapter

FAMILIES = {
    "Cosmos3OmniForConditionalGeneration": "holitom.models.qwen3_vl:Cosmos3",
    "Glm46VForConditionalGeneration": "holitom.models.glm4v:Glm46V",
    "Glm4vForConditionalGeneration": "holitom.models.glm4v:Glm4v",
    "Glm4vMoeForConditionalGeneration": "holitom.models.glm4v:Glm4vMoe",
    "GlmOcrForConditionalGeneration": "holitom.models.glm_ocr:GlmOcr",
    "HyperCLOVAXVisionV2ForConditionalGeneration": "holitom.models.hyperclovax:HyperClovaX",
    "InternVLForConditionalGeneration": "holitom.models.internvl:InternVL",
    "LlavaNextVideoForConditionalGeneration": "holitom.models.llava_next_video:LlavaNextVideo",
    "LlavaOnevisionForConditionalGeneration": "holitom.models.llava_onevision:LlavaOnevision",
    "LlavaVideoForConditionalGeneration": "holitom.models.llava_video:LlavaVideo",
    "MiniCPMV4_6ForConditionalGeneration": "holitom.models.minicpmv:MiniCPMV46",
    "MiniCPMV4_7ForConditionalGeneration": "holitom.models.minicpmv:MiniCPMV47",
    "Qwen2VLForConditionalGeneration": "holitom.models.qwen2_vl:Qwen2VL",
    "Qwen2_5OmniThinkerForConditionalGeneration": "holitom.models.qwen_omni:Qwen25Omni",
    "Qwen2_5_VLForConditionalGeneration": "holitom.models.qwen2_5_vl:Qwen25VL",
    "Qwen3OmniMoeThinkerForConditionalGeneration": "holitom.models.qwen_omni:Qwen3Omni",
    "Qwen3VLForConditionalGeneration": "holitom.models.qwen3_vl:Qwen3VL",
    "Qwen3VLMoeForConditionalGeneration": "holitom.models.qwen3_vl:Qwen3VL",
    "Qwen3_5ForConditionalGeneration": "holitom.models.qwen3_5:Qwen35",
    "Qwen3_5MoeForConditionalGeneration": "holitom.models.qwen3_5:Qwen35",
    "SmolVLMForConditionalGeneration": "holitom.models.smolvlm:SmolVLM",
    "VideoLlama3ForConditionalGeneration": "holitom.models.video_llama3:VideoLlama3",
}

# Modules that read checkpoints in a layout that transformers does not read, by the checkpoint's architecture;
# and modules that register our own model types with transformers.
ORIGINALS = {"LlavaQwenForCausalLM": "holitom.models.modeling_llava_video"}
OWN_TYPES = {"llava_video": "holitom.models.modeling_llava_video"}


class Original(Protocol):
    """A module that reads original checkpoints."""

    def load(self, name: str, **settings: Any) -> tuple[Any, Any]:
        """Load the model and the processor of checkpoint `name`."""

    def converted_config(self, original: dict[str, Any]) -> Any:
        """Convert an original `config.json` to a transformers config."""


def adapter_for(model: object) -> Adapter:
    """Make the adapter of `model`, found by the name of its class or of a base class.

    For a model that PEFT, DistributedDataParallel or DataParallel (of one device) wraps, it is the adapter of
    the model inside, `Adapter.model`.

    Raises:
        UnsupportedModelError: `model` is not a model, no family has its class, its variant is not supported,
            or its code came with its checkpoint.
        UnsupportedUsageError: `model` is compiled.
    """
    own = target(model)
    classes = type(own).__mro__
    if any(kind.__module__.startswith("transformers_modules") for kind in classes):  # `trust_remote_code`
        raise _foreign(type(own).__name__)
    for base in classes:
        if base.__name__ in FAMILIES:
            adapter: Adapter = _named(FAMILIES[base.__name__])(own)
            return adapter
    raise UnsupportedModelError(advice(own, list(FAMILIES)))


def family_of(name: str) -> str:
    """Name of the family of class `name`, one of `FAMILIES`: "Qwen2.5-VL"."""
    adapter = _named(FAMILIES[name])
    family: str = getattr(adapter, "name", None) or adapter.family
    return family


def _foreign(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} runs code that came with its checkpoint; load one in the transformers format, without "
        "trust_remote_code"
    )


def original_layout(config: dict[str, Any]) -> Original | None:
    """Return the module that reads a checkpoint with this `config.json`; None where transformers reads it.

    Raises:
        UnsupportedModelError: the checkpoint brings its own code, which no adapter fits.
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
    """Read the transformers config of checkpoint `name`, in any known layout, or of a config file.

    For a model that speaks (Qwen-Omni) it is the config of its thinker, which takes videos and answers.

    Raises:
        UnsupportedModelError: the checkpoint brings its own code, is not a supported variant, or takes no
            videos.
        OSError: there is no such checkpoint.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, PretrainedConfig

    given = PretrainedConfig.get_config_dict(name)[0]
    original = original_layout(given)
    if original is not None:
        return original.converted_config(given)
    config = AutoConfig.from_pretrained(name)
    config = getattr(config, "thinker_config", config)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UnsupportedModelError(
            f"no adapter for a checkpoint of type {config.model_type!r}, which sees no videos; "
            "give a video language model's: `holitom models` lists them"
        )
    return config


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
