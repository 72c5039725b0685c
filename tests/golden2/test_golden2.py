"""Reference data of published methods: what their definitions give, number by number."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from holitom.methods import get_method, method_class
from holitom.tokens import VideoTokens

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "manifest.json").read_text())
FACTS = {"segments", "left_after_time", "equal_to_corrected_reference", "frame_feature"}  # no settings


@pytest.mark.parametrize("case", CASES, ids=[case["file"].split(".")[0] for case in CASES])
def test_what_is_sent_is_exact(case: dict[str, Any]) -> None:
    data = load_file(HERE / case["file"], str(torch.get_default_device()))
    settings = {name: value for name, value in case["parameters"].items() if name not in FACTS}
    if case["method"] == "dycoke":  # the ratio of the case is what `prune` comes to
        assert settings.keys() <= {field.name for field in fields(method_class("dycoke"))}
        check(case, data, get_method("dycoke", **settings))
        settings.pop("prune")
    check(case, data, get_method(case["method"], retain_ratio=case["retain_ratio"], **settings))


def check(case: dict[str, Any], data: dict[str, torch.Tensor], method: Any) -> None:
    features = data["features"]
    frames, tokens, _ = features.shape
    merged = method.merge(VideoTokens(features, data["importance"], tuple(case["grid"])))
    at, order = (merged.frame * tokens + merged.position).sort()
    assert at.tolist() == data["kept"].tolist()
    assert len(at) == case["tokens"]
    expected = data.get("merged", features.flatten(0, 1)[at])
    assert_close(merged.features[order], expected, atol=1e-5, rtol=0)
    facts = case["parameters"]
    if "segments" in facts:
        assert merged.segments == [tuple(segment) for segment in facts["segments"]]
    if "left_after_time" in facts:
        assert merged.stages["temporal"] == facts["left_after_time"]
    if "size" in data:
        assert merged.size[order].tolist() == data["size"].tolist()
    if "into" in data:
        assert merged.origins is not None
        assert merged.origins().into.flatten().tolist() == data["into"].tolist()
    if "budget" in data:
        assert torch.bincount(merged.frame, minlength=frames).tolist() == data["budget"].tolist()
