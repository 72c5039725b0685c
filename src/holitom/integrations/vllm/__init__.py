"""A plugin that merges videos inside vLLM before the language model, without a fork or patch of vLLM.

    vllm serve MODEL --hf-overrides '{"holitom": {"retain_ratio": 0.1}}'

vLLM calls `register` in every process that it starts. `register` replaces, for each supported architecture,
vLLM's model class by a subclass that behaves as the original unless the model's config has a `holitom` entry.
Each family has one file: how many embeddings a video has, and how its vision tower gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holitom.contract import Reuse
from holitom.errors import UnsupportedModelError, UnsupportedUsageError
from holitom.integrations.vllm.contract import check_interfaces, check_version, known
from holitom.integrations.vllm.settings import check_spelling, method_of
from holitom.tower.kinds import kind_named

if TYPE_CHECKING:
    from holitom.methods.base import Method

FAMILIES = {
    "LlavaOnevisionForConditionalGeneration": (
        "holitom.integrations.vllm.llava_onevision:HoliTomLlavaOnevisionForConditionalGeneration"
    ),
    "LlavaNextVideoForConditionalGeneration": (
        "holitom.integrations.vllm.llava_next_video:HoliTomLlavaNextVideoForConditionalGeneration"
    ),
    "InternVLForConditionalGeneration": (
        "holitom.integrations.vllm.internvl:HoliTomInternVLForConditionalGeneration"
    ),
    "Qwen2VLForConditionalGeneration": (
        "holitom.integrations.vllm.qwen2_vl:HoliTomQwen2VLForConditionalGeneration"
    ),
    "Qwen2_5_VLForConditionalGeneration": (
        "holitom.integrations.vllm.qwen2_5_vl:HoliTomQwen25VLForConditionalGeneration"
    ),
    "Qwen3VLForConditionalGeneration": (
        "holitom.integrations.vllm.qwen3_vl:HoliTomQwen3VLForConditionalGeneration"
    ),
    "Qwen3VLMoeForConditionalGeneration": (
        "holitom.integrations.vllm.qwen3_vl:HoliTomQwen3VLMoeForConditionalGeneration"
    ),
    "Qwen3_5ForConditionalGeneration": (
        "holitom.integrations.vllm.qwen3_5:HoliTomQwen35ForConditionalGeneration"
    ),
    "Qwen3_5MoeForConditionalGeneration": (
        "holitom.integrations.vllm.qwen3_5:HoliTomQwen35MoeForConditionalGeneration"
    ),
}


def register() -> None:
    """The entry point `vllm.general_plugins`. It may be called more than once in a process."""
    import vllm
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    if known(vllm.__version__):
        for architecture, place in FAMILIES.items():
            ModelRegistry.register_model(architecture, place)
    # The settings of every architecture are checked when the engine is configured, long before weights are
    # read. Unknown architectures too, since they would otherwise be served with full tokens without an error.
    for architecture in ModelRegistry.get_supported_archs():
        verifier = MODELS_CONFIG_MAP.get(architecture, VerifyAndUpdateConfig)
        if not hasattr(verifier, "holitom"):
            looked_over = {"holitom": True, "verify_and_update_model_config": _looked_over(verifier)}
            MODELS_CONFIG_MAP[architecture] = type(verifier.__name__, (verifier,), looked_over)


def check(model_config: Any, version: str) -> Method | None:
    """The method that `model_config` asks for, or None if it asks for none.

    Raises:
        UnsupportedUsageError: vLLM's `version` was neither tested nor read, or vLLM is to prune videos too.
        UnsupportedModelError: the architecture is none of `FAMILIES`, or its vision tower cannot reuse.
        SettingsError: the settings are wrong, the method cannot work in vLLM, or the entry has another name.
    """
    if getattr(model_config.hf_config, "holitom", None) is None:
        check_spelling(model_config.hf_config)
        return None
    check_version(version)
    if model_config.architecture not in FAMILIES:
        raise UnsupportedModelError(
            f"holitom cannot merge for {model_config.architecture} in vLLM; supported: {', '.join(FAMILIES)}"
        )
    method = method_of(model_config.hf_config)
    if model_config.multimodal_config.is_multimodal_pruning_enabled():
        raise UnsupportedUsageError(
            "--video-pruning-rate and the holitom entry of --hf-overrides would both take tokens out of a "
            'video; leave one of them out ({"holitom": {"method": "evs"}} and {"method": "vidcom2"} are '
            "vLLM's two methods in holitom)"
        )
    if method is not None and Reuse.of(method.reuse):
        kind_named(model_config.hf_config.vision_config.model_type, model_config.architecture)
    return method


def _looked_over(verifier: Any) -> Any:
    def verify_and_update_model_config(model_config: Any) -> None:
        import vllm

        if check(model_config, vllm.__version__) is not None:
            check_interfaces()
        verifier.verify_and_update_model_config(model_config)

    return staticmethod(verify_and_update_model_config)
