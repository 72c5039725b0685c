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
    "InternVLForConditionalGeneration": "holitom.models.internvl:InternVL",
    "LlavaNextVideoForConditionalGeneration": "holitom.models.llava_next_video:LlavaNextVideo",
    "LlavaOnevisionForConditionalGeneration": "holitom.models.llava_onevision:LlavaOnevision",
    "LlavaVideoForConditionalGeneration": "holitom.models.llava_video:LlavaVideo",
    "SmolVLMForConditionalGeneration": "holitom.models.smolvlm:SmolVLM",
}

# Checkpoints in a layout that transformers does not read, by the architecture that they name; and model types
# of ours, whose modules make them known to transformers.
ORIGINALS = {"LlavaQwenForCausalLM": "holitom.models.modeling_llava_video:load"}
OWN_TYPES = {"llava_video": "holitom.models.modeling_llava_video"}

GUIDE = "docs/adding-a-model.md"


class Loader(Protocol):
    """What reads an original checkpoint: `load(name, dtype=...)`, the model and its processor."""

    def __call__(self, name: str, *, dtype: Any = "auto") -> tuple[Any, Any]: ...


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of `model`, by the name of its class or of a class that it derives from.

    Raises:
        UnsupportedModelError: no family has that class, or not this variant of it; the message says what is
            supported and comes nearest.
    """
    for base in type(model).__mro__:
        if base.__name__ in FAMILIES:
            adapter: Adapter = _named(FAMILIES[base.__name__])(model)
            return adapter
    raise unsupported(type(model).__name__)


def unsupported(name: str, because: str = "") -> UnsupportedModelError:
    """The error for a model class that no family has, `because` its checkpoint brings something unknown."""
    near = get_close_matches(name, FAMILIES, n=1, cutoff=0.0)
    brings = f", which brings {because}" if because else ""
    return UnsupportedModelError(
        f"no adapter for a model of class {name}{brings}; the nearest supported one is {near[0]} (all: "
        f"{', '.join(sorted(FAMILIES))}); {GUIDE} shows how to add a family"
    )


def original_loader(config: dict[str, Any]) -> Loader | None:
    """What reads a checkpoint with this `config.json`, or None where transformers does.

    Raises:
        UnsupportedModelError: the checkpoint brings its own code, which no adapter can know.
    """
    if config.get("model_type") in OWN_TYPES:
        import_module(OWN_TYPES[config["model_type"]])
        return None
    architecture = (config.get("architectures") or [""])[0]
    if architecture in ORIGINALS:
        loader: Loader = _named(ORIGINALS[architecture])
        return loader
    from transformers import CONFIG_MAPPING

    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise unsupported(architecture or str(config.get("model_type")), "code of its own (remote code)")
    return None


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
