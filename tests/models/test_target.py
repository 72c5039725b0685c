"""What one attaches to: models that are wrapped work as they are, anything else is told what would."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from support.families import small
from support.tiny import Tiny, build_model, video
from torch import nn
from transformers import (
    Blip2ForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from holitom import HoliTom, UnsupportedModelError, UnsupportedUsageError
from holitom.models import adapter_for

METHOD = HoliTom(retain_ratio=0.3, inner_layer=2)


@pytest.fixture
def inputs(tiny: Tiny) -> Any:
    return tiny.inputs("w1 <video> w2 w3", videos=[video()])


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def answer(model: Any, inputs: Any) -> list[int]:
    ids: list[int] = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0].tolist()
    return ids


def check_merges(wrapper: Any, inputs: Any) -> None:
    """Attached by its wrapper, the model merges in calls through either, and nothing is left after."""
    model = adapter_for(wrapper).model
    assert model is not wrapper
    stock = model(**inputs).logits
    with METHOD(model):
        wanted = model(**inputs).logits
    with METHOD(wrapper) as run:
        assert torch.equal(wrapper(**inputs).logits, wanted)
        assert run.last is not None
        assert run.last.videos[0].sent < 64
        assert torch.equal(model(**inputs).logits, wanted)
    assert not torch.equal(wanted, stock)
    assert torch.equal(wrapper(**inputs).logits, stock)


def with_adapter(model: Any, **settings: Any) -> Any:
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **settings)
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:  # fresh ones add nothing
            nn.init.normal_(weight, std=0.3)
    return wrapped.eval()


@pytest.mark.parametrize("settings", [{}, {"task_type": "CAUSAL_LM"}], ids=["plain", "causal-lm"])
def test_a_peft_model_merges_in_calls_and_in_generate(inputs: Any, settings: dict[str, Any]) -> None:
    wrapped = with_adapter(build_model(), **settings)
    check_merges(wrapped, inputs)
    stock = answer(wrapped, inputs)
    with METHOD(wrapped.get_base_model()):
        wanted = answer(wrapped.get_base_model(), inputs)
    with METHOD(wrapped) as run:
        assert answer(wrapped, inputs) == wanted
        assert run.last is not None
        with wrapped.disable_adapter():
            assert answer(wrapped, inputs) != wanted
    assert answer(wrapped, inputs) == stock


def test_labels_that_merging_would_spoil_are_refused_through_peft_too(inputs: Any) -> None:
    wrapped = with_adapter(build_model(), task_type="CAUSAL_LM")
    with METHOD(wrapped), pytest.raises(UnsupportedUsageError, match="label"):
        wrapped(**inputs, labels=inputs["input_ids"])


def test_a_learned_prompt_is_refused() -> None:
    model = copy.deepcopy(small("qwen2-vl").model)
    text = model.config.text_config
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=2,
        num_layers=text.num_hidden_layers,
        token_dim=text.hidden_size,
        num_attention_heads=text.num_attention_heads,
    )
    with pytest.raises(UnsupportedModelError, match=r"learned prompt.*get_base_model"):
        METHOD.attach(peft.get_peft_model(model, config))


def test_data_parallel_models_merge(inputs: Any, alone: None) -> None:
    model = build_model()
    check_merges(nn.parallel.DistributedDataParallel(model), inputs)
    check_merges(nn.DataParallel(model), inputs)


def test_wrappers_may_wrap_each_other(inputs: Any, alone: None) -> None:
    check_merges(nn.parallel.DistributedDataParallel(with_adapter(build_model())), inputs)


@torch.no_grad()
def test_a_model_sharded_by_fully_shard_merges(inputs: Any, alone: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = build_model()
    with METHOD(model):
        wanted = model(**inputs).logits
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with METHOD(model):
        torch.testing.assert_close(model(**inputs).logits, wanted)


def test_the_older_sharding_is_refused(alone: None) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded = FullyShardedDataParallel(build_model(), device_id=torch.device("cpu"))
    with pytest.raises(UnsupportedModelError, match=r"FullyShardedDataParallel.*fully_shard"):
        METHOD.attach(sharded)


def test_data_parallel_over_several_devices_is_refused() -> None:
    wrapped = nn.DataParallel(build_model())
    wrapped.device_ids = [0, 1]
    with pytest.raises(UnsupportedModelError, match=r"2 devices.*DistributedDataParallel"):
        METHOD.attach(wrapped)


def test_a_model_that_accelerate_prepared_merges(inputs: Any) -> None:
    model = build_model()
    wanted = answer(model, inputs)
    with METHOD(model):
        merged = answer(model, inputs)
    prepared = accelerate.Accelerator(cpu=True).prepare(model)
    with METHOD(prepared):
        assert answer(prepared, inputs) == merged
    assert answer(prepared, inputs) == wanted


def test_a_compiled_model_is_refused(tiny: Tiny) -> None:
    compiled = torch.compile(copy.deepcopy(tiny.model))
    for attach in (METHOD.attach, adapter_for):
        with pytest.raises(UnsupportedUsageError, match=r"compiled.*attach to the model itself"):
            attach(compiled)


class Holder(nn.Module):
    """Somebody's own module around a model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Identity(), inner])


def test_a_module_that_holds_a_model_names_the_way_to_it(tiny: Tiny) -> None:
    with pytest.raises(UnsupportedModelError, match=r"attach to its `stages\.1`"):
        METHOD.attach(Holder(tiny.model))


def tower() -> Any:
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return SiglipVisionModel(SiglipVisionConfig(**shape, image_size=28, patch_size=14))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda one: None, "None"),
        (lambda one: "llava-hf/some", "'llava-hf/some' is a name; load the model first"),
        (lambda one: Path("some"), "'some' is a name"),
        (lambda one: type(one.model), "LlavaOnevisionForConditionalGeneration is a class"),
        (lambda one: one.processor, "LlavaOnevisionProcessor prepares a model's inputs; attach to the model"),
        (lambda one: one.processor.tokenizer, "prepares a model's inputs"),
        (lambda one: (one.model, one.processor), "tuple is no model"),
        (lambda one: one.model.state_dict(), "OrderedDict is no model"),
        (lambda one: one.model.model, "part of a model: attach to the whole one, of class LlavaOnevisionFor"),
        (lambda one: one.model.model.multi_modal_projector, "the whole one, of class LlavaOnevisionFor"),
        (lambda one: one.model.model.language_model, "Qwen2Model, which takes no pixels; attach"),
        (lambda one: tower(), "SiglipVisionModel, which takes no ids of text"),
        (lambda one: small("qwen2.5-vl").model.model.visual, "of class Qwen2_5_VLForConditionalGeneration"),
        (lambda one: small("qwen3-omni").model.model, "of class Qwen3OmniMoeThinkerForConditionalGeneration"),
        (lambda one: nn.Linear(2, 2), "Linear, which takes no pixels and no ids of text"),
    ],
)
def test_the_error_for_another_object_says_what_to_attach_to(tiny: Tiny, given: Any, told: str) -> None:
    for attach in (METHOD.attach, adapter_for):
        with pytest.raises(UnsupportedModelError, match=re.escape(told)) as caught:
            attach(given(tiny))
        assert "\n" not in str(caught.value)
        assert "nearest" not in str(caught.value)


def test_a_pipeline_names_its_model(tiny: Tiny) -> None:
    from transformers import pipeline

    ready = pipeline("image-text-to-text", model=tiny.model, processor=tiny.processor)
    with pytest.raises(UnsupportedModelError, match="attach to its `model`"):
        METHOD.attach(ready)


def test_only_the_error_for_an_unknown_class_says_how_to_add_a_family() -> None:
    unknown = Blip2ForConditionalGeneration.__new__(Blip2ForConditionalGeneration)
    with pytest.raises(UnsupportedModelError, match=r"no adapter for a model of class Blip2.*nearest"):
        adapter_for(unknown)


def test_a_class_of_ones_own_that_derives_from_a_family_is_that_family() -> None:
    class Own(LlavaOnevisionForConditionalGeneration):
        pass

    model = build_model()
    model.__class__ = Own
    assert adapter_for(model).model is model
