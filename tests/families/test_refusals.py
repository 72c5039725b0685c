"""What no family can serve is refused with one clear error, before its vision tower has run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.families import FAMILIES, Small, small
from support.families.glm4v_moe import FAMILY as GLM_MIXTURE
from support.reference import videos_of
from torch import nn

from holitom import HoliTom, Method, UnsupportedModelError, UnsupportedUsageError
from holitom.models import adapter_for

METHOD = HoliTom(0.4, similarity_threshold=0.8)
each_family = pytest.mark.parametrize("name", FAMILIES)
each_use = pytest.mark.parametrize("use", ["forward", "generate"])


@contextmanager
def refused_before_the_tower(one: Small) -> Iterator[None]:
    ran: list[bool] = []
    before = set(one.model.__dict__), set(one.model.model.__dict__)
    hook = adapter_for(one.model).vision_attention.register_forward_pre_hook(lambda *_: ran.append(True))
    with hook, METHOD(one.model), pytest.raises(UnsupportedUsageError) as error, torch.no_grad():
        yield
    assert not ran
    assert "\n" not in str(error.value)
    assert (set(one.model.__dict__), set(one.model.model.__dict__)) == before


def asked(one: Small, inputs: Any, use: str) -> None:
    one.model(**inputs) if use == "forward" else one.model.generate(**inputs, max_new_tokens=2)


# --- prompts that are not those of their videos -------------------------------------------------------------


@each_family
@each_use
@pytest.mark.parametrize("change", ["one too few", "one too many", "none"])
def test_placeholders_that_are_not_those_of_the_video(name: str, use: str, change: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    ids = inputs["input_ids"]
    held = adapter_for(one.model).placeholders(ids)[0].nonzero()[:, 0]
    keep = torch.ones(ids.shape[1], dtype=torch.int64)
    keep[held[:1] if change != "none" else held] = 2 if change == "one too many" else 0
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in inputs:
            inputs[key] = inputs[key].repeat_interleave(keep, dim=1)
    with refused_before_the_tower(one):
        asked(one, inputs, use)


@each_family
@each_use
def test_rows_whose_wrong_counts_cancel_out(name: str, use: str) -> None:
    """One placeholder of the first row's video stands in the second row: transformers sees the sum alone."""
    one = small(name)
    adapter = adapter_for(one.model)
    prompt = "w1 <video> w2 w3"
    inputs = one.inputs(prompt, prompt, videos=[one.video(), one.video(1)])
    ids = inputs["input_ids"]
    last = int(adapter.placeholders(ids)[0].nonzero()[-1])
    ids[1, last + 1], ids[0, last] = ids[0, last].clone(), ids[0, -1].clone()
    with refused_before_the_tower(one):
        asked(one, inputs, use)


@each_family
@each_use
def test_pixels_of_a_shorter_video(name: str, use: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    key = adapter_for(one.model).pixels_name
    # By videos, frames, or patches: one after another, or (MiniCPM-V) side by side in one picture.
    axis = {5: 1, 4: -1 if len(inputs[key]) == 1 else 0}.get(inputs[key].dim(), 0)
    inputs[key] = inputs[key].narrow(axis, 0, inputs[key].shape[axis] // 2)
    with refused_before_the_tower(one):
        asked(one, inputs, use)


@each_family
@each_use
def test_a_grid_that_disagrees(name: str, use: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    if "video_grid_thw" not in inputs:
        pytest.skip("its videos come without a grid")
    inputs["video_grid_thw"] = inputs["video_grid_thw"] * torch.tensor([1, 1, 2])
    with refused_before_the_tower(one):
        asked(one, inputs, use)


@each_family
def test_a_later_turn_is_looked_over_by_itself(name: str) -> None:
    """Of a conversation over a cache, `generate` is given all ids and the pixels of the new part alone."""
    one = small(name)
    if adapter_for(one.model).keeps_positions:
        pytest.skip("its positions need the grids of the whole conversation, encoded or not")
    first = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    both = one.inputs("w1 <video> w2 w3 w9 <video> w4", videos=[one.video(), one.video(1)])
    new = one.inputs("w9 <video> w4", videos=[one.video(1)])
    with METHOD(one.model), torch.no_grad():
        cache = one.model(**first, use_cache=True).past_key_values
        inputs = {**new, "input_ids": both["input_ids"], "attention_mask": both["attention_mask"]}
        one.model.generate(**inputs, past_key_values=cache, max_new_tokens=1)


# --- towers that cannot be read -----------------------------------------------------------------------------


@each_family
def test_an_attention_that_hides_its_projections(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(name).model
    attention = adapter_for(model).vision_attention
    hidden = [part for part in ("qkv", "q_proj", "k_proj", "q", "k") if hasattr(attention, part)]
    assert hidden
    for part in hidden:
        with monkeypatch.context() as patch:
            patch.delattr(attention, part)
            with pytest.raises(UnsupportedModelError, match=f"without {part}, so what it attends to"):
                METHOD.attach(model)


@each_family
def test_a_decoder_that_hides_its_projections(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for inner merging alone."""
    model = small(name).model
    adapter = adapter_for(model)
    (stage,) = METHOD.inner(len(adapter.layers))
    ranks = adapter.ranked_by(stage)
    monkeypatch.delattr(adapter.layers[ranks].self_attn, "q_proj")
    with pytest.raises(
        UnsupportedModelError, match=f"layer {ranks} of the language model has a .* without q_proj"
    ):
        METHOD.attach(model)
    HoliTom(0.4, inner_drop=None).attach(model).detach()


@each_family
def test_linear_layers_that_are_quantised_one_by_one(name: str) -> None:
    """They can be read as they come: importance is that of the weights before, nearly."""
    one = small(name)
    model = copy.deepcopy(one.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
    quantised = Small(one.family, model, one.processor)
    assert not any(type(module) is nn.Linear for module in model.modules())
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    (whole,), (coarse,) = videos_of(one.model, inputs), videos_of(quantised.model, inputs)
    assert (coarse.importance - whole.importance).norm() < 0.1 * whole.importance.norm()
    with torch.no_grad():
        full = model(**inputs).logits
        with Method(1.0)(model):
            assert torch.equal(model(**inputs).logits, full)
        with METHOD(model) as run:
            model(**inputs)
    assert run.last is not None
    assert 0 < run.last.videos[0].sent < run.last.videos[0].tokens


# --- models that nobody has looked at -----------------------------------------------------------------------


@each_family
def test_code_that_came_with_a_checkpoint(name: str) -> None:
    """Under a name that transformers has, and even where it derives from transformers' own."""
    model = small(name).model
    module = {"__module__": "transformers_modules.someone.checkpoint.modeling"}
    for base in (nn.Module, type(model)):
        remote = type(type(model).__name__, (base,), module)
        with pytest.raises(UnsupportedModelError, match="without trust_remote_code"):
            adapter_for(remote.__new__(remote))


@pytest.mark.parametrize(
    ("name", "part", "kind"),
    [
        ("cosmos3", "text_config", "qwen3_vl_moe_text"),
        ("cosmos3", "vision_config", "qwen2_5_vl_vision"),
        ("glm-4.6v", "vision_config", "glm4v_moe_vision"),
        ("hyperclova-x", "text_config", "llama"),
        ("hyperclova-x", "vision_config", "qwen2_vl_vision"),
    ],
)
def test_parts_that_nobody_has_looked_at(
    name: str, part: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes that take any part are known with some."""
    model = small(name).model
    known = getattr(model.config, part).model_type
    monkeypatch.setattr(getattr(model.config, part), "model_type", kind)
    with pytest.raises(UnsupportedModelError, match=f"{part} of type '{kind}'; supported: '{known}'"):
        METHOD.attach(model)


def test_a_mixture_under_the_dense_models_name() -> None:
    """GLM-4.6V's class takes GLM-4.5V's language model, which rotates otherwise."""
    from transformers import Glm46VConfig, Glm46VForConditionalGeneration

    mixture = GLM_MIXTURE.model("sdpa", torch.float32).config
    config = Glm46VConfig(
        text_config=mixture.text_config.to_dict(),
        vision_config=small("glm-4.6v").model.config.vision_config.to_dict(),
    )
    with pytest.raises(UnsupportedModelError, match="'glm4v_moe_text'; supported: 'glm4v_text'"):
        METHOD.attach(Glm46VForConditionalGeneration(config))


def test_a_layout_of_another_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Omni's thinker had its towers beside its language model before."""
    model = small("qwen2.5-omni").model
    monkeypatch.setitem(model._modules, "model", model.model.language_model)
    with pytest.raises(UnsupportedModelError, match="as this version of transformers lays it out"):
        METHOD.attach(model)


def test_a_model_that_speaks_is_told_of_its_thinker() -> None:
    class Speaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.thinker = small("qwen2.5-omni").model

    with pytest.raises(UnsupportedModelError, match=r"Speaks holds the model.*: attach to its `thinker`"):
        METHOD.attach(Speaks())


@pytest.mark.parametrize(
    ("missing", "nearest"),
    [
        ("VideoLlavaForConditionalGeneration", "LlavaNextVideoForConditionalGeneration"),
        ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
        ("Kimi_K25ForConditionalGeneration", "HyperCLOVAXVisionV2ForConditionalGeneration"),
    ],
)
def test_a_missing_family_is_told_the_nearest(missing: str, nearest: str) -> None:
    """The one whose videos come in as its own do."""
    import transformers

    kind: Any = getattr(transformers, missing)
    message = f"class {missing}; the nearest that has one is {nearest}. `holitom models` lists all"
    with pytest.raises(UnsupportedModelError, match=message):
        adapter_for(kind.__new__(kind))


def test_of_families_that_are_equally_near_the_name_decides() -> None:
    class Qwen4VLForConditionalGeneration(nn.Module):
        pass

    with pytest.raises(UnsupportedModelError, match=r"nearest that has one is Qwen\dVLForConditional"):
        adapter_for(Qwen4VLForConditionalGeneration())
