"""Hooks of reuse: who they concern, what they leave behind, and what others see through them."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from support.families import small
from support.towers import Encoder, features, mixed, still

from holitom.errors import SettingsError, UnsupportedUsageError
from holitom.models import adapter_for
from holitom.tower import Reuse, ReusedTower

EQUAL = Reuse(threshold=0)
FAMILIES = ["llava-onevision", "llava-next-video", "internvl", "qwen2.5-vl", "qwen3-vl"]


def attributes(model: Any) -> dict[str, Any]:
    """What hangs on each module, hooks among it."""
    return {
        f"{name}.{key}": dict(value) if isinstance(value, dict) else id(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_detaching_leaves_nothing(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    encoder.stock(mixed(own))  # transformers' own recording hooks come with the first call
    before = attributes(own.model)
    encoder.reused(EQUAL, mixed(own))
    assert attributes(own.model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_outside_a_plan_are_the_stock_towers(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    stock = encoder.stock(mixed(own))
    tower = ReusedTower(encoder.adapter)
    try:
        encoder.reused(EQUAL, mixed(own), tower=tower)
        for one, other in zip(encoder.stock(mixed(own)), stock, strict=True):
            assert torch.equal(one, other)
    finally:
        tower.detach()
        tower.detach()


@pytest.mark.parametrize("name", FAMILIES)
def test_two_threads_and_a_stock_one_do_not_meet(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    videos = (mixed(own), still(own))
    expected = [encoder.reused(EQUAL, video)[0] for video in videos]
    stock = encoder.stock(videos[0])
    wrong: list[int] = []
    tower = ReusedTower(encoder.adapter)

    def check(number: int) -> None:
        for _ in range(8):
            if number == 2:
                found, right = encoder.stock(videos[0]), stock
            else:
                found, right = encoder.reused(EQUAL, videos[number], tower=tower)[0], expected[number]
            if not all(torch.equal(a, b) for a, b in zip(found, right, strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(3)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        tower.detach()
    assert not wrong


@pytest.mark.parametrize("name", ["llava-onevision", "qwen3-vl"])
def test_a_copy_runs_its_own_weights(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    tower = ReusedTower(encoder.adapter)
    try:
        twin = copy.deepcopy(own.model)
        with torch.no_grad():
            for weight in twin.parameters():
                weight.mul_(0.5)
        arguments, ids = encoder.arguments(mixed(own))
        other = getattr(adapter_for(twin).trunk, encoder.adapter.encoder)
        with torch.no_grad():
            with tower.call(EQUAL, arguments, ids):
                inside = features(other(**arguments, return_dict=True))
            outside = features(other(**arguments, return_dict=True))
    finally:
        tower.detach()
    fresh = copy.deepcopy(own.model)
    with torch.no_grad():
        for weight in fresh.parameters():
            weight.mul_(0.5)
        encode = getattr(adapter_for(fresh).trunk, encoder.adapter.encoder)
        expected = features(encode(**arguments, return_dict=True))
    for one, two, three in zip(inside, outside, expected, strict=True):
        assert torch.equal(one, three)
        assert torch.equal(two, three)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hook_on_the_last_attentions_input_sees_the_whole_grid(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    shapes: list[torch.Size] = []

    def see(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append((args[0] if args else kwargs["hidden_states"]).shape)

    hook = encoder.adapter.vision_attention.register_forward_pre_hook(see, with_kwargs=True)
    try:
        encoder.stock(mixed(own))
        _, report = encoder.reused(EQUAL, mixed(own))
    finally:
        hook.remove()
    assert not report.stock
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("layers", [-2, -1, [1, 3], [-3, -1]])
def test_the_layers_that_features_are_taken_from_have_whole_grids(layers: Any) -> None:
    own = small("llava-next-video")
    encoder = Encoder(own)
    trunk: Any = encoder.adapter.trunk
    arguments, ids = encoder.arguments(still(own))
    width = trunk.multi_modal_projector.linear_1
    count = 1 if isinstance(layers, int) else len(layers)
    wider = torch.nn.Linear(width.in_features * count, width.out_features)
    trunk.multi_modal_projector.linear_1 = wider
    try:
        with torch.no_grad():
            stock = features(trunk.get_video_features(**arguments, vision_feature_layer=layers))
            tower = ReusedTower(encoder.adapter)
            try:
                with tower.call(EQUAL, {**arguments, "vision_feature_layer": layers}, ids) as report:
                    found = features(trunk.get_video_features(**arguments, vision_feature_layer=layers))
            finally:
                tower.detach()
    finally:
        trunk.multi_modal_projector.linear_1 = width
    assert not report.stock
    for one, other in zip(found, stock, strict=True):
        assert torch.equal(one, other)


def test_images_beside_videos_are_computed_whole() -> None:
    own = small("internvl")
    encoder = Encoder(own)
    picture = still(own)[0]
    inputs = own.inputs("w1 <image> w2 <video> <image>", videos=[still(own)], images=[picture, picture])
    arguments, ids = {"pixel_values": inputs["pixel_values"]}, inputs["input_ids"]
    with torch.no_grad():
        stock = encoder.encode(**arguments).pooler_output
        tower = ReusedTower(encoder.adapter)
        try:
            with tower.call(EQUAL, arguments, ids) as report:
                found = encoder.encode(**arguments).pooler_output
            with tower.call(EQUAL, arguments) as blind:
                unknown = encoder.encode(**arguments).pooler_output
        finally:
            tower.detach()
    assert report.others == len(stock) - len(still(own))
    assert report.groups == 1
    assert blind.stock is not None  # without the prompt nobody knows a frame from an image
    assert torch.equal(found, stock)
    assert torch.equal(unknown, stock)


def test_gradients_flow_through_what_is_computed() -> None:
    own = small("llava-onevision")
    encoder = Encoder(own)
    arguments, ids = encoder.arguments(still(own))
    weight = encoder.adapter.vision_attention.q_proj.weight  # type: ignore[union-attr]
    tower = ReusedTower(encoder.adapter)
    gradients = []
    try:
        for inside in (True, False):
            weight.grad = None
            if inside:
                with tower.call(EQUAL, arguments, ids):
                    output = encoder.encode(**arguments)
            else:
                output = encoder.encode(**arguments)
            output.pooler_output.square().mean().backward()
            gradients.append(weight.grad.clone())
    finally:
        tower.detach()
        for parameter in own.model.parameters():
            parameter.grad = None
    torch.testing.assert_close(*gradients)


def test_one_frame_and_all_layers_states_run_the_stock_tower() -> None:
    own = small("llava-onevision")
    encoder = Encoder(own)
    found, report = encoder.reused(EQUAL, still(own)[:1])
    assert report.stock == "less than a tenth could be reused"
    assert torch.equal(found[0], encoder.stock(still(own)[:1])[0])
    arguments, ids = encoder.arguments(still(own))
    tower = ReusedTower(encoder.adapter)
    try:
        with torch.no_grad(), tower.call(EQUAL, {**arguments, "output_hidden_states": True}, ids) as report:
            output = encoder.encode(**arguments, output_hidden_states=True)
    finally:
        tower.detach()
    assert report.stock is not None
    assert "output_hidden_states" in report.stock
    assert len({state.shape for state in output.hidden_states}) == 1


def test_attached_twice_is_refused() -> None:
    adapter = adapter_for(small("llava-onevision").model)
    tower = ReusedTower(adapter)
    try:
        with pytest.raises(UnsupportedUsageError, match="attached to this vision tower already"):
            ReusedTower(adapter)
    finally:
        tower.detach()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", -1),
        ("threshold", 256),
        ("threshold", "16"),
        ("threshold", True),
        ("threshold", float("nan")),
        ("reach", 0),
        ("reach", 65),
        ("reach", 2.5),
        ("reach", True),
        ("pixel_std", (0.5, 0.5)),
        ("pixel_std", (0.5, 0.0, 0.5)),
        ("pixel_std", 0.5),
    ],
)
def test_a_setting_out_of_range_names_itself(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{field} must be .*got"):
        Reuse(**{field: value})


def test_a_reach_of_one_reuses_nothing() -> None:
    own = small("llava-onevision")
    _, report = Encoder(own).reused(Reuse(threshold=0, reach=1), np.repeat(still(own), 2, 0))
    assert report.stock
