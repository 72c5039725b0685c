"""What attaching relies on in transformers has the name that this version gives it, or is refused."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers import DynamicCache
from transformers.models.qwen2.modeling_qwen2 import Qwen2Config, Qwen2Model

from holitom import InterfaceError
from holitom.models.interface import TESTED, cache_name, given_cache


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
