"""Configs that a family's class takes and its checkpoints do not have: served as stock, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.families import Small, ready, small
from torch.testing import assert_close
from transformers import Qwen3VLForConditionalGeneration

from holitom import HoliTom, Method, UnsupportedModelError, UnsupportedUsageError
from holitom.models import adapter_for

METHOD = HoliTom(retain_ratio=0.4)


@pytest.mark.parametrize("name", ["minicpm-v-4.6", "minicpm-v-4.7"])
def test_without_a_video_token_the_rest_is_as_stock(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config's default names none, and then no prompt can hold a video."""
    one = small(name)
    text = one.inputs("w1 w2 w3")
    image = one.inputs("w1 <image> w2", images=[one.image()])
    video = one.inputs("w1 <video> w2", videos=[one.video()])
    monkeypatch.setattr(one.model.config, "video_token_id", None)
    with torch.no_grad():
        for inputs in (text, image):
            wanted = one.model(**inputs).logits
            ids = one.model.generate(**inputs, max_new_tokens=2, do_sample=False)
            with METHOD(one.model):
                assert torch.equal(one.model(**inputs).logits, wanted)
                assert torch.equal(one.model.generate(**inputs, max_new_tokens=2, do_sample=False), ids)
        for name in ("forward", "generate"):
            with METHOD(one.model), pytest.raises(UnsupportedUsageError, match="names no video_token_id"):
                getattr(one.model, name)(**video)


WINDOW = {"sliding_window": 32, "layer_types": None}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("smolvlm2", {"sliding_window": 32}),
        ("internvl", WINDOW),
        ("internvl-moe", {"sliding_window": 32}),
        ("llava-next-video", {"sliding_window": 32}),
        ("llava-onevision", WINDOW),
        ("videollama3", {"attention_chunk_size": 32}),
        ("qwen3-vl", {"sliding_window": 32}),
        ("qwen2.5-vl", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("glm-4.1v", {"attention_chunk_size": 32}),
        ("hyperclova-x", {"sliding_window": 32}),
        ("qwen3.5", {"layer_types": ["linear_attention", "chunked_attention"]}),
    ],
)
def test_a_cache_that_would_forget_columns_is_refused_on_attach(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generate` makes it of the config, whether the decoder itself reads a window or not."""
    model = small(name).model
    for field, value in settings.items():
        monkeypatch.setattr(model.config.get_text_config(), field, value, raising=False)
    for method in (METHOD, Method(1.0)):
        with pytest.raises(UnsupportedModelError, match="sliding-window layers; supported"):
            method.attach(model)


def test_a_window_that_no_layer_has_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("qwen2-vl").model
    monkeypatch.setattr(model.config.text_config, "sliding_window", 32)
    METHOD.attach(model).detach()


def test_features_of_the_embeddings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attention comes before them."""
    model = small("llava-next-video").model
    monkeypatch.setattr(model.config, "vision_feature_layer", 0)
    with pytest.raises(UnsupportedModelError, match="vision_feature_layer=0, the embeddings"):
        METHOD.attach(model)


def test_features_of_another_layer_than_the_configs_are_refused() -> None:
    one = small("llava-next-video")
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    with METHOD(one.model), torch.no_grad():
        one.model(**inputs, vision_feature_layer=one.model.config.vision_feature_layer)
        with pytest.raises(UnsupportedUsageError, match=r"set model\.config\.vision_feature_layer"):
            one.model(**inputs, vision_feature_layer=-1)


def test_deepstack_with_more_features_than_layers() -> None:
    """As the model adds them: what there is no layer for is left out."""
    wide = small("qwen3-vl")
    config = copy.deepcopy(wide.model.config)
    config.text_config.num_hidden_layers = 2
    torch.manual_seed(0)
    model = ready(Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa"))
    one = Small(wide.family, model, wide.processor)
    assert adapter_for(model).streams == 2
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    with torch.no_grad():
        stock = model(**inputs).logits
        with Method(1.0)(model):
            assert_close(model(**inputs).logits, stock)
        with HoliTom(retain_ratio=0.4, inner_layer=1)(model) as run:
            assert model(**inputs).logits.isfinite().all()
    assert run.last is not None
