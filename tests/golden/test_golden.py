"""The reference data: what HoliTom's definitions give, number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holitom.methods.holitom import HoliTom, MergeInside, effective_ratio
from holitom.models.newlines import grid_order
from holitom.tokens import VideoTokens

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "manifest.json").read_text())


def cases(kind: str) -> Any:
    chosen = [case for case in CASES if case["kind"] == kind]
    assert chosen
    return pytest.mark.parametrize("case", chosen, ids=[case["file"].split(".")[0] for case in chosen])


@cases("outer")
def test_outer_stage_is_exact(case: dict[str, Any]) -> None:
    data = load_file(HERE / case["file"], str(torch.get_default_device()))
    names = ["retain_ratio", "similarity_threshold", "contextual_ratio", "knn", "center_weight"]
    method = HoliTom(**{name: case[name] for name in names})
    grid = (case["grid"], case["grid"])
    merged = method.merge(VideoTokens(data["features"], data["importance"], grid))

    assert merged.segments == [tuple(segment) for segment in case["segments"]]
    total = case["frames"] * case["grid"] ** 2
    assert total - merged.stages["temporal"] == case["prunable_tokens"]
    pruned = int(case["prunable_tokens"])
    assert effective_ratio(case["retain_ratio"], total, pruned) == case["effective_ratio"]

    if case["newline"] == "grid":
        merged = grid_order(merged, grid, data["newline"])
    assert len(merged.features) == case["tokens"]
    torch.testing.assert_close(merged.features, data["tokens"], atol=1e-5, rtol=0)
    per_segment = [int(((merged.frame >= i) & (merged.frame <= j)).sum()) for i, j in merged.segments]
    assert per_segment == data["segment_token_counts"].tolist()


@cases("inner")
def test_inner_merge_is_exact(case: dict[str, Any]) -> None:
    data = load_file(HERE / case["file"], str(torch.get_default_device()))
    begin, count = case["visual_start"], case["visual_tokens"]
    stage = MergeInside(layer=1, drop=case["drop_ratio"])
    hidden, attention = data["hidden"], data["last_query_attention"]
    kept, features = stage(hidden[begin : begin + count], attention[begin : begin + count])

    assert len(kept) == stage.keep(count)
    assert len(hidden) - count + len(kept) == case["kept"]
    around = torch.arange(len(hidden))
    index = torch.cat([around[:begin], kept + begin, around[begin + count :]])
    assert index.tolist() == data["kept_index"].tolist()
    merged = torch.cat([hidden[:begin], features, hidden[begin + count :]])
    torch.testing.assert_close(merged, data["merged"], atol=1e-5, rtol=0)
