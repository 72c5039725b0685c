"""Methods with reuse in the vision tower, on live models."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.families import Small, small
from support.towers import CANNOT, mixed, still

from holitom import HoliTom, Method, Reuse, SettingsError, UnsupportedModelError, UnsupportedUsageError
from holitom.bench.shared import encode_once
from holitom.cli import main
from holitom.integrations.vllm.settings import method_of
from holitom.methods import get_method

EQUAL = Reuse(threshold=0)
FAMILIES = ["llava-onevision", "llava-next-video", "internvl", "smolvlm2", "videollama3", "qwen2.5-vl"]
FAMILIES += ["qwen3-vl", "qwen3.5", "glm-4.1v", "qwen3-omni"]


def logits(own: Small, method: Method, *videos: Any) -> tuple[torch.Tensor, Any]:
    inputs = own.inputs(*["w1 <video> w2 w3"] * len(videos), videos=list(videos))
    with torch.no_grad(), method(own.model) as run:
        return own.model(**inputs).logits, run.last


def said(own: Small, method: Method, *videos: Any) -> tuple[list[list[int]], Any]:
    inputs = own.inputs(*["w1 <video> w2 w3"] * len(videos), videos=list(videos))
    with method(own.model) as run:
        ids = own.model.generate(**inputs, max_new_tokens=4, do_sample=False, suppress_tokens=own.unspoken)
    return ids.tolist(), run.last


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [Method(1.0), HoliTom(0.3)], ids=["full", "holitom"])
def test_equal_frames_give_the_logits_of_the_stock_tower(name: str, method: Method) -> None:
    own = small(name)
    found, report = logits(own, replace(method, reuse=EQUAL), still(own))
    stock, plain = logits(own, method, still(own))
    assert torch.equal(found, stock)
    assert plain.reuse is None
    assert report.reuse.computed_share == 1 / report.videos[0].steps
    assert report.reuse.to_dict()["references"] == [[0]]
    assert report.reuse.to_dict()["stock"] is None
    assert "vision tower:" in str(report)
    assert report.to_dict()["reuse"]["groups"] == 1
    assert pickle.loads(pickle.dumps(report)).reuse.computed_share == report.reuse.computed_share


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("cause", ["output_hidden_states", "gradient checkpointing"])
def test_the_report_says_why_the_stock_tower_ran(cause: str) -> None:
    """Either is a setting of the whole model, so the caller may not know that it reaches the tower."""
    own = small("qwen3-vl")
    inputs, settings = own.inputs("w1 <video> w2 w3", videos=[still(own)]), {}
    if cause == "output_hidden_states":
        settings = {cause: True}
    else:
        own.model.train().gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with Method(0.5, reuse=EQUAL)(own.model) as run:
            own.model(**inputs, **settings)
    finally:
        own.model.eval().gradient_checkpointing_disable()
    assert run.last is not None
    assert run.last.reuse is not None
    assert cause in str(run.last)
    assert cause in run.last.to_dict()["reuse"]["stock"]
    assert run.last.reuse.computed_share == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_reuses_as_a_forward_does(name: str) -> None:
    own = small(name)
    ids, report = said(own, HoliTom(0.3, reuse=EQUAL), mixed(own))
    _, forward = logits(own, HoliTom(0.3, reuse=EQUAL), mixed(own))
    assert not report.reuse.stock
    assert report.reuse.computed_share == forward.reuse.computed_share < 0.7
    again, _ = said(own, HoliTom(0.3, reuse=EQUAL), mixed(own))
    assert ids == again


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_videos_of_different_lengths_are_planned_apart(name: str) -> None:
    own = small(name)
    videos = [mixed(own), still(own)] if name == "llava-onevision" else [mixed(own), still(own)[:4]]
    _, report = logits(own, HoliTom(0.3, reuse=EQUAL), *videos)
    assert len(report.reuse.plans) == 2
    alone = [logits(own, HoliTom(0.3, reuse=EQUAL), video)[1].reuse.plans[0] for video in videos]
    for plan, other in zip(report.reuse.plans, alone, strict=True):
        assert np.array_equal(plan.computed, other.computed)


@pytest.mark.parametrize("method", ["visionzip", "fastvid", "holitom-plus", "vidcom2", "evs", "dycoke"])
def test_every_kind_of_method_works_over_a_reusing_tower(method: str) -> None:
    own = small("llava-onevision")
    stock, _ = logits(own, get_method(method, retain_ratio=0.5), still(own))
    found, report = logits(own, get_method(method, retain_ratio=0.5, reuse=EQUAL), still(own))
    assert torch.equal(found, stock)
    assert report.reuse.computed_share == 1 / 8


def test_reuse_true_means_the_default_settings() -> None:
    own = small("llava-onevision")
    one, first = logits(own, Method(1.0, reuse=True), mixed(own))
    other, second = logits(own, Method(1.0, reuse=Reuse()), mixed(own))
    assert torch.equal(one, other)
    assert first.reuse.computed_share == second.reuse.computed_share < 1


def test_a_combination_reuses_as_its_outer_method() -> None:
    combined = get_method("visionzip", reuse=EQUAL).with_inner(HoliTom())
    assert combined.reuse == EQUAL
    assert not get_method("visionzip").with_inner(HoliTom(reuse=True)).reuse


@pytest.mark.parametrize("value", [1, "yes", None, 16.0])
def test_what_is_no_setting_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"reuse must be True, False or a holitom\.Reuse, got"):
        Method(1.0, reuse=value)


@pytest.mark.parametrize("name", CANNOT)
def test_a_tower_that_cannot_is_refused_on_attaching(name: str) -> None:
    own = small(name)
    hooks = [len(module._forward_pre_hooks) for module in own.model.modules()]
    with pytest.raises(UnsupportedModelError, match="reuse in the vision tower is not supported"):
        HoliTom(reuse=True).attach(own.model)
    assert [len(module._forward_pre_hooks) for module in own.model.modules()] == hooks
    HoliTom().attach(own.model).detach()


@pytest.mark.parametrize("name", ["llava-onevision", "internvl", "qwen3-vl"])
def test_detaching_leaves_no_hook_or_wrapper_of_reuse(name: str) -> None:
    own = small(name)
    logits(own, Method(1.0), mixed(own))

    def state() -> dict[str, Any]:
        return {
            f"{path}.{key}": dict(value) if isinstance(value, dict) else id(value)
            for path, module in own.model.named_modules()
            for key, value in vars(module).items()
            if key != "rope_deltas"  # the model's own memory of its latest prompt
        }

    before = state()
    logits(own, HoliTom(0.3, reuse=EQUAL), mixed(own))
    assert state() == before


def test_a_copy_of_an_attached_model_is_a_model_of_its_own() -> None:
    own = small("llava-onevision")
    handle = Method(1.0, reuse=EQUAL).attach(own.model)
    try:
        twin = copy.deepcopy(own.model)
    finally:
        handle.detach()
    inputs = own.inputs("w1 <video> w2 w3", videos=[mixed(own)])
    with torch.no_grad():
        assert torch.equal(twin(**inputs).logits, own.model(**inputs).logits)
        with Method(1.0, reuse=EQUAL)(twin) as run:
            twin(**inputs)
    assert run.last is not None
    assert run.last.reuse is not None


def test_two_threads_read_their_own_reports() -> None:
    own = small("llava-onevision")
    videos = (mixed(own), still(own))
    expected = [logits(own, Method(1.0, reuse=EQUAL), video) for video in videos]
    inputs = [own.inputs("w1 <video> w2 w3", videos=[video]) for video in videos]
    wrong: list[int] = []
    with Method(1.0, reuse=EQUAL)(own.model) as run:

        def check(number: int) -> None:
            right, report = expected[number]
            for _ in range(6):
                with torch.no_grad():
                    found = own.model(**inputs[number]).logits
                assert run.last is not None
                assert run.last.reuse is not None
                share = run.last.reuse.computed_share
                if not torch.equal(found, right) or share != report.reuse.computed_share:
                    wrong.append(number)

        threads = [threading.Thread(target=check, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_one_run_of_the_tower_is_for_methods_that_reuse_alike() -> None:
    own = small("llava-onevision")
    inputs = own.inputs("w1 <video> w2", videos=[mixed(own)])
    with pytest.raises(UnsupportedUsageError, match="reuse differently"):
        encode_once(own.model, inputs, [HoliTom(), HoliTom(reuse=True)])
    with torch.no_grad():
        shared = encode_once(own.model, inputs, [HoliTom(reuse=EQUAL)])
    assert shared.encoded.reuse is not None
    assert shared.encoded.reuse.computed_share < 1


def test_the_command_reports_what_was_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--reuse", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"]["holitom"]
    assert run["answer"] == "ring"
    assert 0 < run["reuse"]["computed_share"] < 0.3
    assert main(["ask", "--method", "full[reuse=true]", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"]["full[reuse=true]"]
    assert run["answer"] == "ring"
    assert 0 < run["reuse"]["computed_share"] < 0.3
    assert main(["ask", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"]["holitom"]["reuse"] is None


def test_towers_of_another_engine_merge_no_frames() -> None:
    class Config:
        holitom: ClassVar[dict[str, Any]] = {"method": "earlytom", "in_tower": True, "inner": False}

        def get_text_config(self) -> Any:
            return type("Text", (), {"num_hidden_layers": 28})()

    with pytest.raises(SettingsError, match="not vLLM's; leave in_tower out"):
        method_of(Config())
