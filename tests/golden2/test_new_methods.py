"""Reference data of the newer methods, number by number."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from holitom.methods import AOT, EarlyTom, GleanVID, get_method, method_class
from holitom.methods.unified import TextAwareMerge
from holitom.methods.vcast import curvature
from holitom.ops.frame_choice import choose_frames
from holitom.ops.frame_groups import frame_groups, lagged_similarity, merge_frames
from holitom.tokens import VideoTokens

HERE = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((HERE / "new_methods.json").read_text())


def cases(**of: str) -> Any:
    chosen = [case for case in CASES if all(case[name] == value for name, value in of.items())]
    assert chosen
    return pytest.mark.parametrize("case", chosen, ids=[case["file"].split(".")[0] for case in chosen])


def read(case: dict[str, Any]) -> tuple[VideoTokens, dict[str, Tensor]]:
    data = load_file(HERE / case["file"], str(torch.get_default_device()))
    video = VideoTokens(
        data["features"], data["importance"], tuple(case["grid"]), shallow=data.get("shallow")
    )
    return video, data


def method(case: dict[str, Any]) -> Any:
    known = {field.name for field in fields(method_class(case["method"]))}
    settings = {name: value for name, value in case["parameters"].items() if name in known}
    return get_method(case["method"], retain_ratio=case["retain_ratio"], **settings)


@cases(kind="outer")
def test_outer_stage_is_exact(case: dict[str, Any]) -> None:
    video, data = read(case)
    merged = method(case).merge(video)
    frames, tokens, _ = video.features.shape
    at = merged.frame * tokens + merged.position
    assert at.tolist() == data["kept"].tolist()
    assert len(at) == case["tokens"]
    assert merged.origins is not None
    into = merged.origins().into.flatten()
    if "merged" in data:
        assert_close(merged.features, data["merged"], atol=1e-5, rtol=0)
    else:
        assert torch.equal(merged.features, video.features.flatten(0, 1)[at])
    if "size" in data:
        assert merged.size.tolist() == data["size"].tolist()
    if "into" in data:
        assert into.tolist() == data["into"].tolist()
    if "owner" in data:
        assert into.tolist() == at[data["owner"]].tolist()
    if "pool" in data:
        assert merged.stages["pool"] == len(data["pool"])
        assert set(data["pool"].tolist()) <= set(at.tolist())
    if "budget" in data:
        assert torch.bincount(merged.frame, minlength=frames).tolist() == data["budget"].tolist()
    if "groups" in data:
        assert merged.segments == [tuple(group) for group in data["groups"].tolist()]


@cases(method="vcast")
def test_vcast_curvature(case: dict[str, Any]) -> None:
    video, data = read(case)
    mean = torch.nn.functional.normalize(video.features.mean(1), dim=-1)
    assert_close(curvature(mean), data["curvature"], atol=1e-5, rtol=1e-5)


@cases(method="gleanvid")
def test_gleanvid_novelty(case: dict[str, Any]) -> None:
    video, data = read(case)
    chosen = method(case)
    assert isinstance(chosen, GleanVID)
    assert_close(chosen.novelty(video.features, video.grid), data["novelty"], atol=1e-3, rtol=1e-4)


@cases(method="aot")
def test_aot_anchors(case: dict[str, Any]) -> None:
    video, data = read(case)
    chosen = method(case)
    assert isinstance(chosen, AOT)
    frames, tokens, _ = video.features.shape
    anchors, kept = chosen.plan(frames, tokens)
    clips = case["parameters"]["plan"]
    assert anchors.tolist() == [clip["anchors"] for clip in clips for _ in range(clip["frames"])]
    assert kept.tolist() == [count for clip in clips for count in clip["kept"]]

    mask = chosen.anchors(video, anchors)
    assert mask.flatten().nonzero()[:, 0].tolist() == data["anchors"].tolist()
    at = (~mask).byte().argsort(dim=1, stable=True)[:, : int(anchors.max())]
    there = torch.arange(at.shape[1]) < torch.from_numpy(anchors).to(at.device)[:, None]
    merged, _ = chosen.in_space(video, mask, at, there)
    assert_close(merged[0][there], data["anchors_after_space"], atol=1e-5, rtol=0)


@cases(method="earlytom_tower")
def test_earlytom_in_the_tower(case: dict[str, Any]) -> None:
    data, settings = load_file(HERE / case["file"], str(torch.get_default_device())), case["parameters"]
    found = merge_frames(data["hidden"], **settings)
    assert found.groups == [tuple(group) for group in data["groups"].tolist()]
    assert_close(torch.from_numpy(found.weights).float(), data["weights"].cpu(), atol=1e-5, rtol=0)
    hidden = found(data["hidden"])
    assert_close(hidden, data["merged"], atol=1e-5, rtol=0)
    assert_close(found(data["importance"]), data["merged_importance"], atol=1e-5, rtol=0)
    assert len(hidden) == case["frames_after"]
    assert np.array_equal(found.source, found.weights.argmax(1)) or (found.source >= 0).all()
    after = frame_groups(lagged_similarity(hidden, len(hidden) - 1), *settings_of(settings))
    assert after == [tuple(group) for group in data["groups_after"].tolist()]
    stage_two = EarlyTom(**{name: settings[name] for name in settings})
    assert stage_two.groups(hidden) == after


def settings_of(settings: dict[str, Any]) -> tuple[float, int, float]:
    return settings["segment_threshold"], settings["max_frames"], settings["momentum"]


@cases(method="unified_inner")
def test_unified_inside_is_exact(case: dict[str, Any]) -> None:
    data, settings = load_file(HERE / case["file"], str(torch.get_default_device())), case["parameters"]
    stage = TextAwareMerge(18, settings["keep_ratio"], settings["text_weight"])
    score = stage.score(data["visual"], data["attention"], data["text"])
    assert_close(score, data["score"], atol=1e-5, rtol=0)
    kept, merged = stage(data["visual"], data["attention"], data["text"])
    assert stage.keep(case["visual_tokens"]) == len(kept) == case["kept_tokens"]
    assert kept.tolist() == data["kept"].tolist()
    assert_close(merged, data["merged"], atol=1e-5, rtol=0)


@cases(method="aks")
def test_frames_from_scores(case: dict[str, Any]) -> None:
    data, settings = load_file(HERE / case["file"], str(torch.get_default_device())), case["parameters"]
    chosen = choose_frames(
        data["scores"].cpu().numpy(),
        settings["frames"],
        threshold=settings["threshold"],
        spread=settings["spread"],
        max_depth=settings["max_depth"],
    )
    assert chosen == data["selected"].long().tolist()
    assert len(chosen) == case["selected"]
