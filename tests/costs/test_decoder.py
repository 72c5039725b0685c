"""What a config says of a language model, against live models of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.families import FAMILIES, small
from support.methods import EveryOther
from transformers import DynamicCache

from holitom.costs import Decoder, Layer, Level, layer_operations, spans


def held_bytes(cache: Any) -> tuple[int, int]:
    """Bytes of keys and values, and of recurrent states, that a cache really holds."""
    keys = states = 0
    for layer in cache.layers:
        if getattr(layer, "keys", None) is not None:
            keys += layer.keys.nbytes + layer.values.nbytes
        else:
            held = [*layer.conv_states.values(), *layer.recurrent_states.values()]
            states += sum(state.nbytes for state in held)
    return keys, states


def state_bytes(config: Any, itemsize: int) -> int:
    """Bytes of the gated delta nets of one row: windows of the short convolutions, and float32 states."""
    text = config.get_text_config()
    nets = (getattr(text, "layer_types", None) or []).count("linear_attention")
    if not nets:
        return 0
    keys = text.linear_num_key_heads * text.linear_key_head_dim
    values = text.linear_num_value_heads * text.linear_value_head_dim
    convolved = text.linear_conv_kernel_dim * (2 * keys + values)
    return nets * (itemsize * convolved + 4 * values * text.linear_key_head_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_cache_bytes_are_those_of_the_live_model(name: str, dtype: torch.dtype) -> None:
    model = small(name, dtype=dtype).model
    decoder = Decoder.of(model.config)
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(input_ids=torch.full((1, 9), 12), past_key_values=cache)
    wanted = decoder.kv_bytes([Level(0, 9)], dtype.itemsize), state_bytes(model.config, dtype.itemsize)
    assert held_bytes(cache) == wanted


@pytest.mark.parametrize("name", FAMILIES)
def test_cache_bytes_of_a_merged_prompt_are_those_that_the_run_reports(name: str) -> None:
    """Text, separators and visual tokens by layer; one merge is before the language model, one inside."""
    one = small(name)
    inner = len(Decoder.of(one.model.config).layers) - 1
    inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
    cache = DynamicCache(config=one.model.config.get_text_config())
    with torch.no_grad(), EveryOther(layers=(inner,))(one.model) as run:
        one.model(**inputs, past_key_values=cache)
    (video,), (_, packed) = run.last.videos, run.last.prompt_tokens
    left = packed - video.sent + len(video.survivors(inner))
    decoder = Decoder.of(one.model.config)
    levels = [Level(0, packed), Level(inner, left)]
    assert left < packed
    assert run.last.kv_bytes == decoder.kv_bytes(levels, 4) + state_bytes(one.model.config, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_those_of_the_live_model(name: str) -> None:
    """Feed-forward widths by each layer's matrices: of the chosen experts, and of those that all share."""
    model = small(name).model
    text = model.config.get_text_config()
    layers = model.get_decoder().layers
    decoder = Decoder.of(model.config)
    assert (decoder.width, len(decoder.layers)) == (text.hidden_size, len(layers))
    for layer, real in zip(decoder.layers, layers, strict=True):
        assert layer.attends == hasattr(real, "self_attn")
        experts = getattr(real.mlp, "experts", None)
        if experts is None:
            assert layer.ffn == real.mlp.down_proj.in_features
            continue
        shared = getattr(real.mlp, "shared_experts", getattr(real.mlp, "shared_expert", None))
        ffn = text.num_experts_per_tok * experts.down_proj.shape[-1]
        assert layer.ffn == ffn + (0 if shared is None else shared.down_proj.in_features)


def test_mixtures_with_dense_layers_among_them() -> None:
    """Qwen3 names its dense layers one by one or every few, GLM how many come first."""
    text = small("qwen3-vl-moe").model.config.get_text_config()
    usual = {"mlp_only_layers": text.mlp_only_layers, "decoder_sparse_step": text.decoder_sparse_step}
    try:
        text.mlp_only_layers = [1]
        assert [layer.ffn for layer in Decoder.of(text).layers] == [64, 128, 64, 64, 64]
        text.mlp_only_layers, text.decoder_sparse_step = [], 2
        assert [layer.ffn for layer in Decoder.of(text).layers] == [128, 64, 128, 64, 128]
    finally:
        for name, value in usual.items():
            setattr(text, name, value)


def test_layers_with_a_state_cost_no_square_and_cache_nothing() -> None:
    decoder = Decoder(2, (Layer(5, cached=6), Layer(5, attends=False)))
    levels = [Level(0, 3)]
    assert decoder.prefill(levels) == 2 * (4 * 3 * 4 + 2 * 3 * 2 * 5) + 2 * 9 * 2
    assert decoder.kv_bytes(levels, itemsize=2) == 3 * 6 * 2


@given(st.data(), st.integers(1, 40))
def test_spans_cover_every_layer_once(data: st.DataObject, layers: int) -> None:
    starts = [0, *sorted(data.draw(st.sets(st.integers(1, max(1, layers - 1)), max_size=layers - 1)))]
    levels = [Level(start, 100 - start) for start in starts]
    found = spans(levels, layers)
    assert [layer for span in found for layer in span.layers] == list(range(layers))
    assert all(span.tokens == 100 - span.layers.start for span in found)
    decoder = Decoder(3, (Layer(7, cached=2),) * layers)
    each = [next(span.tokens for span in found if index in span.layers) for index in range(layers)]
    assert decoder.prefill(levels) == sum(layer_operations(tokens, 3, 7) for tokens in each)
    assert decoder.kv_bytes(levels, 1) == 2 * sum(each)
