"""What attaching relies on in transformers has the name that this version gives it, or is refused."""

from __future__ import annotations

from functools import wraps
from inspect import Parameter, signature
from typing import Any

import pytest
import torch
import transformers
from support.families import small
from torch import nn
from transformers import DynamicCache
from transformers.models.qwen2.modeling_qwen2 import Qwen2Config, Qwen2Model

import holitom.models.interface
from holitom import HoliTom, InterfaceError, UnsupportedModelError
from holitom.models import adapter_for
from holitom.models.interface import TESTED, cache_name, given_cache

METHOD = HoliTom(retain_ratio=0.4)
FAMILIES = ["llava-onevision", "smolvlm2", "qwen2.5-vl", "minicpm-v-4.6"]


def test_the_cache_goes_where_the_installed_version_takes_it() -> None:
    small = {"num_hidden_layers": 1, "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8}
    model = Qwen2Model(Qwen2Config(**small, num_attention_heads=2, num_key_value_heads=1))
    newer = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 24)
    assert cache_name(model) == ("cache" if newer else "past_key_values")
    cache = DynamicCache()
    model(input_ids=torch.tensor([[1, 2]]), **{cache_name(model): cache})
    assert cache.get_seq_length() == 2


def test_a_cache_is_found_under_either_name() -> None:
    cache = object()
    assert given_cache({"past_key_values": cache}) is cache
    assert given_cache({"cache": cache, "past_key_values": None}) is cache
    assert given_cache({"cache": None}) is None
    assert given_cache({}) is None


def test_a_forward_that_takes_its_cache_by_another_name_is_refused_with_both_versions() -> None:
    class Other(nn.Module):
        def forward(self, hidden: torch.Tensor, memory: object) -> torch.Tensor:
            return hidden

    with pytest.raises(InterfaceError, match="forward of Other takes no cache") as caught:
        cache_name(Other())
    assert transformers.__version__ in str(caught.value)
    assert TESTED in str(caught.value)


def renamed(function: Any, argument: str) -> Any:
    """`function` that takes `argument` by another name."""

    @wraps(function)
    def other(*args: Any, **kwargs: Any) -> Any:
        if "renamed" in kwargs:
            kwargs[argument] = kwargs.pop("renamed")
        return function(*args, **kwargs)

    given = signature(function)
    assert argument in given.parameters
    parameters = [p.replace(name="renamed") if p.name == argument else p for p in given.parameters.values()]
    other.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined]
    return other


@pytest.mark.parametrize("name", FAMILIES)
def test_an_argument_of_another_name_is_refused_on_attach(name: str) -> None:
    model = small(name).model
    adapter = adapter_for(model)
    layer = next(layer for index, layer in enumerate(adapter.layers) if adapter.attends(index))
    cache = cache_name(layer)
    hooked: list[tuple[Any, str, list[str]]] = [
        (model, "forward", ["input_ids", "labels", adapter.pixels_name]),
        (adapter.trunk, "forward", ["input_ids", "mm_encoder_outputs", adapter.pixels_name]),
        (adapter.trunk, adapter.encoder, [adapter.pixels_name, *adapter.encoder_arguments]),
        (adapter.language_model, "forward", ["inputs_embeds", "attention_mask", "position_ids", cache]),
        (layer, "forward", ["hidden_states", "attention_mask", "position_embeddings", cache]),
        (layer.self_attn, "forward", ["hidden_states", "position_embeddings", cache]),
        (adapter.vision_attention, "forward", list(adapter.vision_arguments)),
    ]
    for owner, method, arguments in hooked:
        for argument in arguments:
            setattr(owner, method, renamed(getattr(owner, method), argument))
            try:
                with pytest.raises(InterfaceError) as caught:
                    METHOD.attach(model).detach()
            finally:
                delattr(owner, method)
            said = str(caught.value)
            assert type(owner).__name__ in said
            assert (argument in said) or (argument == cache and "cache" in said)
            assert transformers.__version__ in said
            assert TESTED in said
    METHOD.attach(model).detach()


@pytest.mark.parametrize("argument", ["cache", "inputs_embeds", "layer_idx"])
def test_a_mask_function_that_takes_another_name_is_refused(
    argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = holitom.models.interface
    own = module.create_causal_mask
    name = module.mask_cache_name(own) if argument == "cache" else argument
    monkeypatch.setattr(module, "create_causal_mask", renamed(own, name))
    told = rf"create_causal_mask takes no .*{argument}.*{transformers.__version__}.*{TESTED}"
    with pytest.raises(InterfaceError, match=told):
        METHOD.attach(small("llava-onevision").model)


@pytest.mark.parametrize(("name", "owner", "gone"), [
    ("llava-onevision", "model", "vision_tower"),
    ("internvl", "model", "language_model"),
    ("qwen3-vl", "model", "visual"),
    ("videollama3", "model.vision_model.encoder", "layers"),
    ("qwen3.5", "model.language_model", "layers"),
])  # fmt: skip
def test_a_module_in_another_place_is_refused(
    name: str, owner: str, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(name).model
    monkeypatch.delitem(model.get_submodule(owner)._modules, gone)
    told = rf"has no .*{gone}.*{transformers.__version__}.*{TESTED}"
    with pytest.raises(UnsupportedModelError, match=told):
        METHOD.attach(model).detach()


def test_a_layer_without_a_part_that_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("llava-onevision").model
    monkeypatch.delitem(model.model.language_model.layers[0]._modules, "input_layernorm")
    with pytest.raises(InterfaceError, match="Qwen2DecoderLayer has no input_layernorm"):
        METHOD.attach(model).detach()


def test_a_class_of_ones_own_that_passes_all_on_is_no_change() -> None:
    model = small("llava-onevision").model
    kind = type(model)

    class Own(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    assert Parameter.VAR_KEYWORD in {p.kind for p in signature(Own.forward).parameters.values()}
    model.__class__ = Own
    try:
        METHOD.attach(model).detach()
    finally:
        model.__class__ = kind


def test_a_cache_that_keeps_its_layers_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(DynamicCache):
        def update(self, *args: Any, **kwargs: Any) -> Any:
            states = super().update(*args, **kwargs)
            self.stored, self.layers = self.layers, []
            return states

    monkeypatch.setattr(holitom.models.interface, "DynamicCache", Elsewhere)
    with pytest.raises(InterfaceError, match="DynamicCache does not hold"):
        METHOD.attach(small("llava-onevision").model)
