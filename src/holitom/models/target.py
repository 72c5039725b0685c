"""Find the model to attach to: the object itself, or the model inside a wrapper."""

from __future__ import annotations

from difflib import SequenceMatcher
from inspect import signature
from os import PathLike
from typing import Any

from torch import nn

from holitom.errors import UnsupportedModelError, UnsupportedUsageError


def target(given: object) -> nn.Module:
    """Return `given`, or the model that it wraps (PEFT, data parallelism).

    Raises:
        UnsupportedModelError: `given` is not a model, or a wrapper whose calls do not reach the model's
        hooks. UnsupportedUsageError: `given` is a compiled model.
    """
    if not isinstance(given, nn.Module):
        raise UnsupportedModelError(_no_model(given))
    model: Any = given
    while (inner := _wrapped(model)) is not None:
        model = inner
    own: nn.Module = model
    return own


def _wrapped(model: Any) -> nn.Module | None:
    """The model inside `model`, if `model` is a wrapper that passes its calls on; None: it is no wrapper."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "OptimizedModule" in kinds:
        raise UnsupportedUsageError(
            "the model was compiled (torch.compile) before the method was attached, and a compiled graph "
            "does not call hooks; attach to the model itself, and compile after or not at all"
        )
    if "FullyShardedDataParallel" in kinds:
        raise UnsupportedModelError(
            "FullyShardedDataParallel replaces the modules and weights that merging reads; shard with "
            "fully_shard or use DistributedDataParallel, and attach to that"
        )
    if kinds & {"PeftModel", "PeftMixedModel"}:
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"{type(model).__name__} with a learned prompt hides the prompt's ids, and videos are found "
                "by them; attach to get_base_model() and call that, or use LoRA"
            )
        base: nn.Module = model.base_model.model
        return base
    if "DataParallel" in kinds and len(model.device_ids) > 1:
        raise UnsupportedModelError(
            f"DataParallel copies the model to {len(model.device_ids)} devices for each call, without the "
            "attached method; attach to its `module` and call that, or use DistributedDataParallel"
        )
    if kinds & {"DataParallel", "DistributedDataParallel"}:
        inner: nn.Module = model.module
        return inner
    return None


def _no_model(given: Any) -> str:
    """The message for `given`, which is no module: what to attach to instead."""
    if given is None:
        return "there is no model (None) to attach to; pass one that is loaded"
    if isinstance(given, type):
        return f"{given.__name__} is a class; attach to a model of it, as its from_pretrained returns one"
    if isinstance(given, (str, PathLike)):
        return (
            f"{str(given)!r} is a name; load the model first (AutoModelForImageTextToText.from_pretrained) "
            "and attach to what that returns"
        )
    name = type(given).__name__
    if isinstance(getattr(given, "model", None), nn.Module):
        return f"{name} is no model; attach to its `model`"
    if hasattr(given, "tokenizer") or hasattr(given, "convert_tokens_to_ids"):
        return f"{name} prepares a model's inputs; attach to the model"
    return f"{name} is no model; attach to a torch.nn.Module, as from_pretrained returns one"


def advice(model: nn.Module, families: list[str]) -> str:
    """The message for a model that no adapter fits: the reason, and what to do.

    Args:
        model: a model whose class is none of `families`.
        families: names of the classes that have an adapter.
    """
    name = type(model).__name__
    for path, module in model.named_modules() if "_modules" in vars(model) else ():
        if any(kind.__name__ in families for kind in type(module).__mro__):
            return f"{name} holds the model that sees videos: attach to its `{path}`"
    whole = _whole(type(model), families)
    if whole is not None:
        return f"{name} is a part of a model: attach to the whole one, of class {whole}"
    lacks = _lacks(type(model))
    if lacks is not None:
        known = ", ".join(family.replace("ForConditionalGeneration", "") for family in families)
        return f"no adapter for {name}, which takes no {lacks}; attach to a video model, one of: {known}"
    nearest = _nearest(type(model), families)
    return (
        f"no adapter for a model of class {name}; the nearest that has one is {nearest}. "
        "`holitom models` lists all; a family is added by an adapter of its own in holitom.models.FAMILIES"
    )


def _lacks(kind: type[nn.Module]) -> str | None:
    """Inputs of a video language model that `kind`'s forward does not take; None: it takes all, or has
    none."""
    if kind.forward is nn.Module.forward:
        return None
    taken = signature(kind.forward).parameters
    lacks = {
        "pixels": not any(argument.startswith("pixel") for argument in taken),
        "ids of text": "input_ids" not in taken,
    }
    return " and no ".join(what for what, missing in lacks.items() if missing) or None


def _classes(families: list[str]) -> dict[str, Any]:
    """The families' classes in the installed transformers, by name; it may lack some."""
    import transformers

    return {name: getattr(transformers, name) for name in families if hasattr(transformers, name)}


def _whole(kind: type[nn.Module], families: list[str]) -> str | None:
    """The family's class from the same file of transformers as `kind`, if `kind` is one of its parts."""
    own = [name for name, whole in _classes(families).items() if whole.__module__ == kind.__module__]
    return own[0] if own and kind.__name__ not in own else None


def _nearest(kind: type[nn.Module], families: list[str]) -> str:
    """The family whose class has the most similar arguments, which describe videos; ties go by its name."""
    known = _classes(families)

    def arguments(kind: Any) -> set[str]:
        return set(signature(kind.forward).parameters) - {"self"}

    def likeness(name: str) -> tuple[float, float]:
        own, other = arguments(kind), arguments(known[name])
        return len(own & other) / len(own | other), SequenceMatcher(None, kind.__name__, name).ratio()

    return max(known, key=likeness)
