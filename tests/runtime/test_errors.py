"""What merging cannot serve says so, before it answers wrongly."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.reference import reference_logits
from support.tiny import Tiny, build_model, video
from torch.testing import assert_close
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicLayer

from holitom import (
    HoliTom,
    InterfaceError,
    Method,
    SettingsError,
    UnsupportedModelError,
    UnsupportedUsageError,
)
from holitom.contract import InnerStage
from holitom.methods.fastv import DropInside

OUTER = EveryOther()
INNER = EveryOther(layers=(2,))


@pytest.fixture
def inputs(tiny: Tiny) -> Any:
    return tiny.inputs("w1 <video> w2 w3", videos=[video()])


def test_unknown_model_class() -> None:
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"Qwen2ForCausalLM, which takes no pixels.*Qwen2VL"):
        OUTER.attach(model)


@pytest.mark.parametrize("change", ["vision", "text", "strategy", "sliding"])
def test_unknown_variant(tiny: Tiny, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.model.config
    if change == "vision":
        monkeypatch.setattr(config.vision_config, "model_type", "clip_vision_model")
    elif change == "text":
        monkeypatch.setattr(config.text_config, "model_type", "mamba")
    elif change == "strategy":
        monkeypatch.setattr(config, "vision_feature_select_strategy", "default")
    else:
        monkeypatch.setattr(config.text_config, "layer_types", ["sliding_attention"] * 4)
    with pytest.raises(UnsupportedModelError, match="supported"):
        OUTER.attach(tiny.model)


@pytest.mark.parametrize("layer", [0, 4, 99])
def test_inner_layer_that_the_model_lacks(tiny: Tiny, layer: int) -> None:
    with pytest.raises(SettingsError, match=r"1\.\.3"):
        EveryOther(layers=(layer,)).attach(tiny.model)


def test_a_cache_of_a_kind_that_nobody_has_looked_at(tiny: Tiny, inputs: Any) -> None:
    class Quantised(DynamicCache):
        pass

    with (
        OUTER(tiny.model),
        pytest.raises(UnsupportedUsageError, match=r"\(Quantised\).*a StaticCache"),
    ):
        tiny.model.generate(**inputs, max_new_tokens=2, past_key_values=Quantised())


def test_features_encoded_beforehand(tiny: Tiny, inputs: Any) -> None:
    features = tiny.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="before this method was attached"):
        tiny.model(input_ids=inputs["input_ids"], mm_encoder_outputs={"video": features})
    with INNER(tiny.model):
        features = tiny.model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="before this method was attached"):
        tiny.model(input_ids=inputs["input_ids"], mm_encoder_outputs={"video": features})


@pytest.mark.parametrize("kind", ["4d", "dict"])
def test_masks_that_are_not_2d(tiny: Tiny, inputs: Any, kind: str) -> None:
    mask = torch.zeros(1, 1, 5, 5)
    inputs["attention_mask"] = mask if kind == "4d" else {"full_attention": mask}
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="2D"):
        tiny.model(**inputs)


def test_positions_of_ones_own(tiny: Tiny, inputs: Any) -> None:
    columns = inputs["input_ids"].shape[1]
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="consecutive"):
        tiny.model(**inputs, position_ids=2 * torch.arange(columns)[None])


@pytest.mark.parametrize("how", ["wrapped", "in place", "forward", "a part"])
def test_compiled_model(how: str) -> None:
    model: Any = build_model()
    if how == "wrapped":
        model = torch.compile(model)
    elif how == "in place":
        model.compile()
    elif how == "forward":
        model.forward = torch.compile(model.forward)
    else:
        model.model.vision_tower = torch.compile(model.model.vision_tower)
    with pytest.raises(UnsupportedUsageError, match=r"torch\.compile"):
        OUTER.attach(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_while_attached(tiny: Tiny, inputs: Any) -> None:
    """The hooks are traced with the model, and gone from its graph when they are gone from the model."""
    with torch.no_grad():
        full = tiny.model(**inputs).logits
        with INNER(tiny.model):
            wanted = tiny.model(**inputs).logits
            compiled = torch.compile(tiny.model, backend="eager")
            assert_close(compiled(**inputs).logits, wanted, atol=1e-4, rtol=1e-4)
        assert_close(compiled(**inputs).logits, full, atol=1e-4, rtol=1e-4)
    torch.compiler.reset()


def test_a_merged_cache_needs_a_method(tiny: Tiny, inputs: Any) -> None:
    """The stock model would read the cache with masks and positions that are not the cache's."""
    cache = DynamicCache(config=tiny.model.config)
    with INNER(tiny.model):
        ids = tiny.model.generate(**inputs, past_key_values=cache, max_new_tokens=2, do_sample=False)
    more = torch.cat([ids, torch.tensor([[12, 13]])], dim=1)
    with pytest.raises(UnsupportedUsageError, match="no method attached"):
        tiny.model.generate(input_ids=more, past_key_values=cache, max_new_tokens=2)
    with OUTER(tiny.model):  # any method will do: nothing new is merged
        out = tiny.model.generate(input_ids=more, past_key_values=cache, max_new_tokens=2)
    assert out.shape[1] == more.shape[1] + 2


def test_ids_that_do_not_fit_the_videos(tiny: Tiny, inputs: Any) -> None:
    """One placeholder too few in one row, one too many in the other: the stock check sees only the sum."""
    both = tiny.inputs("w1 <video> w2", "w1 <video> w2", videos=[video(seed=1), video(seed=2)])
    ids = both["input_ids"]
    ids[0, 1], ids[1, 0] = 8, ids[1, 1]
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="placeholders"):
        tiny.model(**both)


def test_a_prompt_that_ends_in_its_video(tiny: Tiny) -> None:
    """Its last token asks, so inner merging lets it be."""
    inputs = tiny.inputs("w1 w2 <video>", videos=[video()])
    with INNER(tiny.model), torch.no_grad():
        out = tiny.model(**inputs).logits[0, -1:]
    assert_close(out, reference_logits(tiny.model, inputs, INNER, []), atol=2e-4, rtol=1e-4)


def test_a_video_of_one_frame(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video(frames=1)])
    for method in (OUTER, INNER, HoliTom(retain_ratio=0.1), HoliTom(retain_ratio=0.01)):
        with method(tiny.model) as run, torch.no_grad():
            out = tiny.model(**inputs).logits[0, -1:]
        assert_close(out, reference_logits(tiny.model, inputs, method, []), atol=2e-4, rtol=1e-4)
        assert run.last is not None
        assert run.last.videos[0].frames == 1


def test_an_inner_stage_that_keeps_none_of_a_few_is_refused(tiny: Tiny) -> None:
    """An answer about no token is no answer: `keep` is monotone, so `keep(1)` tells."""

    class Halves(Method):
        def inner(self, num_layers: int) -> tuple[InnerStage, ...]:
            class Half(DropInside):
                def keep(self, visual: int) -> int:
                    return visual // 2

            return (Half(1, 0.5),)

    with pytest.raises(SettingsError, match=r"layer 1 keeps none of a few visual tokens: its keep\(1\)"):
        Halves().attach(tiny.model)


def test_text_as_embeddings(tiny: Tiny) -> None:
    """They hold no placeholder, so they are text."""
    ids = torch.tensor([[8, 9, 10, 11]])
    embeds = tiny.model.get_input_embeddings()(ids)
    with torch.no_grad():
        stock = tiny.model(inputs_embeds=embeds).logits
        with INNER(tiny.model):
            assert torch.equal(tiny.model(inputs_embeds=embeds).logits, stock)


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
def test_labels_where_no_token_is(tiny: Tiny, inputs: Any, name: str) -> None:
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    column = int((ids[0] == 4).nonzero()[1])  # the second token of the video, which EveryOther merges away
    labels[0, column + (name == "labels")] = 8
    given = {"labels": torch.full_like(ids, -100), name: labels}
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="label"):
        tiny.model(**inputs, **given)
    labels[0, column + (name == "labels")] = -100
    labels[0, -2] = 8
    with OUTER(tiny.model):
        assert torch.isfinite(tiny.model(**inputs, **given).loss)


def test_a_model_that_uses_another_cache(inputs: Any) -> None:
    """What transformers 5.24 did to versions of holitom that knew the cache by its old name."""
    model = build_model()
    forward = model.model.language_model.forward

    def other_cache(**kwargs: Any) -> Any:
        name = "cache" if "cache" in kwargs else "past_key_values"
        return forward(**{**kwargs, name: DynamicCache(config=model.config)})

    for method in (OUTER, HoliTom(retain_ratio=0.25, inner_drop=None)):
        with method(model):
            model.model.language_model.forward = functools.wraps(forward)(other_cache)
            with pytest.raises(InterfaceError, match=r"transformers \d.*tested with"):
                model.generate(**inputs, max_new_tokens=2)
            del model.model.language_model.forward


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("method", [OUTER, INNER, EveryOther(layers=(2,), own_attention=True)])
def test_a_layer_that_ignores_the_cache(inputs: Any, method: Method, layer: int) -> None:
    """Also the one that ranks, whose keys are read before the forward has ended."""
    model = build_model()
    attention = model.model.language_model.layers[layer].self_attn
    own = attention.forward

    @functools.wraps(own)
    def without(*args: Any, **kwargs: Any) -> Any:
        return own(
            *args, **{name: None if "cache" in name or "past" in name else v for name, v in kwargs.items()}
        )

    attention.forward = without
    told = rf"layer {layer} of the language model holds 0 tokens.*transformers \d.*tested with"
    with method(model), pytest.raises(InterfaceError, match=told):
        model.generate(**inputs, max_new_tokens=2)


@pytest.mark.parametrize("many", [0.5, 2])
def test_a_cache_that_holds_more_or_less_than_it_was_given(
    inputs: Any, many: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = DynamicLayer.update

    def update(self: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        states = own(self, keys, values, *args, **kwargs)
        length = self.keys.shape[2]
        at = torch.arange(int(many * length)) % length
        self.keys, self.values = self.keys[:, :, at], self.values[:, :, at]
        return states

    model = build_model()
    for method in (OUTER, INNER):
        with method(model), monkeypatch.context() as patched:
            patched.setattr(DynamicLayer, "update", update)
            with pytest.raises(InterfaceError, match=r"in the cache that was handed in.*tested with"):
                model.generate(**inputs, max_new_tokens=2)


@pytest.mark.parametrize("how", ["not called", "no features"])
def test_an_encoder_that_is_used_otherwise(inputs: Any, how: str) -> None:
    """A model that fills in its videos in a way that is not known would answer about all tokens."""
    model = build_model()
    trunk = model.model
    own = trunk.get_video_features

    @functools.wraps(own)
    def encode(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        output.pooler_output = None
        return output

    if how == "no features":
        trunk.get_video_features = encode
    with OUTER(model):
        if how == "not called":
            trunk.get_video_features = own
        with pytest.raises(InterfaceError, match=r"get_video_features.*transformers \d.*tested with"):
            model(**inputs)


def test_a_tower_whose_attention_is_not_run(inputs: Any) -> None:
    model = build_model()
    layer = model.model.vision_tower.encoder.layers[-1]
    layer.forward = lambda hidden, *args, **kwargs: hidden
    with HoliTom()(model), pytest.raises(InterfaceError, match="attention"):
        model.generate(**inputs, max_new_tokens=2)
