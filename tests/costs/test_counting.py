"""Counts on the meta device against hand formulas, and against what a live, merged run really holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.tiny import PATCH, SIDE, WORDS, Tiny, build_model, video
from torch.utils.flop_counter import FlopCounterMode

from holitom.costs import Level, count_prefill, count_vision
from holitom.models import adapter_for

LAYERS, WIDTH, FFN, KV = 4, 64, 128, 2 * 16  # support.tiny's language model


@pytest.fixture(scope="module")
def meta(tiny: Tiny) -> Any:
    return copy.deepcopy(tiny.model).to("meta")


def layer(n: int) -> int:
    """Matrix products of one layer, `2 m n k` each: projections, scores and sums, gated feed-forward."""
    return 2 * n * WIDTH * (2 * WIDTH + 2 * KV) + 2 * (2 * n * n * WIDTH) + 3 * (2 * n * WIDTH * FFN)


def test_prefill_by_hand(meta: Any) -> None:
    count = count_prefill(meta, adapter_for(meta), [Level(0, 30), Level(1, 20), Level(3, 7)])
    head = 2 * WIDTH * len(WORDS)
    assert count.operations == layer(30) + 2 * layer(20) + layer(7) + head
    assert [(group.first, group.last, group.tokens) for group in count.cache] == [
        (0, 0, 30),
        (1, 2, 20),
        (3, 3, 7),
    ]
    assert count.cache_bytes == (30 + 2 * 20 + 7) * 2 * KV * 4


def test_counting_leaves_nothing_on_the_model(meta: Any) -> None:
    adapter = adapter_for(meta)
    before = count_prefill(meta, adapter, [Level(0, 30)])
    count_prefill(meta, adapter, [Level(0, 30), Level(2, 5)])
    count_vision(adapter, 2, SIDE, SIDE)
    assert count_prefill(meta, adapter, [Level(0, 30)]) == before
    assert not any(module._forward_pre_hooks for module in meta.modules())


def test_vision_by_hand(meta: Any) -> None:
    frames, side, width, ffn = 3, SIDE // PATCH, 32, 64
    patches = side * side
    tower = 2 * (2 * patches * width * (4 * width + 2 * ffn) + 2 * (2 * patches * patches * width))
    embedding = 2 * patches * width * 3 * PATCH**2
    count = count_vision(adapter_for(meta), frames, SIDE, SIDE)
    assert (count.frames, count.tokens, count.separators) == (frames, 16, 1)
    assert sorted(count.operations.values()) == sorted(
        [frames * (tower + embedding), frames * 2 * patches * WIDTH * (width + WIDTH)]
    )
    reading = 2 * patches * width * 2 * width + 2 * patches * patches * width
    assert count.importance >= frames * reading  # averaging over queries may add a product


@pytest.mark.parametrize("stages", [(), (2,)])
def test_counts_are_those_of_a_live_run(processor: Any, meta: Any, stages: tuple[int, ...]) -> None:
    """The same lengths through the attached method: as many operations in its layers, as many bytes.

    Eager, because torch's counter does not know the CPU's fused attention.
    """
    tiny = Tiny(build_model("eager"), processor)
    method = EveryOther(layers=stages)
    inputs = tiny.inputs("<video> w1 w2 w3", videos=[video()])
    kept = 4 * 16 // 2 + 1
    text = inputs["input_ids"].shape[1] - (4 * 16 + 1)
    levels = [Level(0, kept + text)] + [Level(2, kept - kept // 2 + text) for _ in stages]
    expected = count_prefill(meta, adapter_for(meta), levels)

    spent: list[int] = []
    with method(tiny.model) as run, torch.no_grad(), FlopCounterMode(display=False) as counter:
        hooks = []
        for block in tiny.model.model.language_model.layers:
            for part in (block.self_attn, block.mlp):
                hooks += [
                    part.register_forward_pre_hook(lambda *_: spent.append(-counter.get_total_flops())),
                    part.register_forward_hook(
                        lambda *_: spent.append(counter.get_total_flops()), prepend=True
                    ),
                ]
        tiny.model(**inputs)
        for hook in hooks:
            hook.remove()
    assert run.last is not None
    assert run.last.kv_bytes == expected.cache_bytes
    assert sum(spent) + 2 * WIDTH * len(WORDS) == expected.operations
