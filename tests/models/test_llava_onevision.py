"""LLaVA-OneVision: importance from the last vision layer, tokens in the order of its own features."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from support.tiny import Tiny, build_model, video
from torch import Tensor
from torch.testing import assert_close

import holitom.ops.attention
from holitom import HoliTom, MergedTokens, Method, VideoTokens
from holitom.models import adapter_for
from holitom.models.llava_onevision import LlavaOnevision
from holitom.wrapping import Wrapped


class Looks(Method):
    """Keeps everything and what it saw."""

    needs_importance = True

    def merge(self, video: VideoTokens) -> MergedTokens:
        seen.append(video)
        return super().merge(video)


@torch.no_grad()
def reference_vision(model: Any, frames: Tensor, layer: int = -1) -> tuple[Tensor, Tensor]:
    """Importance `[T, N]` and keys `[T, N, d]` of one video's `frames` `[T, C, H, W]`.

    From full attention matrices of the last layer (or of `layer`), pooled here.
    """
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    hidden = tower.embeddings(frames)
    for before in tower.encoder.layers[: layer % len(tower.encoder.layers)]:
        hidden = before(hidden, None)
    read = tower.encoder.layers[layer]
    normed = read.layer_norm1(hidden)
    attention = read.self_attn
    q, k = (p(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for p in
            (attention.q_proj, attention.k_proj))  # fmt: skip
    weights = (q.float() @ k.float().transpose(2, 3) * attention.head_dim**-0.5).softmax(-1)
    received = weights.mean(1).mean(1)
    side = int(received.shape[1] ** 0.5)

    def pool(values: Tensor) -> Tensor:
        """`[T, P, c]` to `[T, N, c]`."""
        picture = values.transpose(1, 2).unflatten(2, (side, side))
        pooled = torch.nn.functional.interpolate(picture, size=[-(-side // 2)] * 2, mode="bilinear")
        return pooled.flatten(2).transpose(1, 2)

    return pool(received[..., None])[..., 0], pool(sum(k.unbind(1)) / attention.num_heads)


seen: list[VideoTokens] = []


class LooksAtAll(Looks):
    needs_keys = True
    needs_shallow = True


def look(tiny: Tiny, inputs: Any, looks: type[Method] = Looks) -> list[VideoTokens]:
    seen.clear()
    with looks(1.0)(tiny.model), torch.no_grad():
        tiny.model(**inputs)
    return list(seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_importance_is_the_attention_received_and_keys_the_layers_own(
    attention: str, dtype: torch.dtype, processor: Any
) -> None:
    tiny = Tiny(build_model(attention, dtype), processor)
    inputs = tiny.inputs("<video> w1 <video>", videos=[video(seed=1), video(seed=2)]).to(dtype)
    pixels = inputs["pixel_values_videos"]
    for got, frames in zip(look(tiny, inputs, LooksAtAll), pixels, strict=True):
        importance, keys = reference_vision(tiny.model, frames)
        assert got.importance.dtype == torch.float32
        tolerance = 1e-6 if dtype == torch.float32 else 2e-3
        assert_close(got.importance, importance, atol=tolerance, rtol=10 * tolerance)
        assert got.keys is not None
        assert_close(got.keys.float(), keys.float(), atol=20 * tolerance, rtol=10 * tolerance)
        assert got.shallow is not None
        shallow, _ = reference_vision(tiny.model, frames, layer=0)  # round(2 layers * 5 / 26)
        assert_close(got.shallow, shallow, atol=tolerance, rtol=10 * tolerance)


def test_importance_is_what_eager_attention_weights_say(processor: Any) -> None:
    """Against transformers' own `output_attentions`, pooled by the model's own function."""
    tiny = Tiny(build_model("eager"), processor)
    inputs = tiny.inputs("<video> w1", videos=[video()])
    frames = inputs["pixel_values_videos"][0]
    with torch.no_grad():
        weights = tiny.model.model.vision_tower(frames, output_attentions=True).attentions[-1]
        wanted = tiny.model.model.apply_pooling(weights.mean((1, 2))[..., None])[..., 0]
    assert_close(look(tiny, inputs)[0].importance, wanted, atol=1e-7, rtol=1e-5)


def test_importance_in_chunks_of_frames(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little memory a chunk may take, the numbers are the same, and no chunk takes more."""
    inputs = tiny.inputs("<video> w1", videos=[video(frames=6)])
    wanted = look(tiny, inputs)[0].importance
    sizes: list[int] = []
    whole = holitom.ops.attention.received_attention

    def watched(query: Tensor, key: Tensor, scale: float) -> Tensor:
        sizes.append(query.shape[0])
        return whole(query, key, scale)

    monkeypatch.setattr("holitom.models.framed.received_attention", watched)
    monkeypatch.setattr("holitom.models.framed.frames_per_chunk", lambda heads, patches: 4)
    assert_close(look(tiny, inputs)[0].importance, wanted)
    assert sizes == [4, 2]


def test_a_video_is_as_important_in_a_batch(tiny: Tiny) -> None:
    alone = look(tiny, tiny.inputs("<video> w1", videos=[video(seed=2)]))[0]
    inputs = tiny.inputs("<video> w1", "w2 <video> w3", videos=[video(seed=1), video(seed=2)])
    assert_close(look(tiny, inputs)[1].importance, alone.importance)


def test_features_are_the_models_own(tiny: Tiny) -> None:
    inputs = tiny.inputs("<video> w1", videos=[video()])
    with torch.no_grad():
        whole = tiny.model.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output[
            0
        ]
    (seen_video,) = look(tiny, inputs)
    assert seen_video.grid == (4, 4)
    assert torch.equal(seen_video.features.flatten(0, 1), whole[:-1])


def test_the_newline_is_sent_last(tiny: Tiny) -> None:
    (seen_video,) = look(tiny, tiny.inputs("<video> w1", videos=[video()]))
    adapter = adapter_for(tiny.model)
    merged = HoliTom(retain_ratio=0.25).merge(seen_video)
    sent = adapter.send(seen_video, merged)
    assert torch.equal(sent.features[:-1], merged.features)
    assert torch.equal(sent.features[-1], tiny.model.model.image_newline)
    assert sent.slot.tolist() == [*(merged.frame * 16 + merged.position).tolist(), 64]


def test_other_vision_layers_keep_their_fused_attention(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """SDPA runs in every vision and language layer; only the read-outs multiply by hand."""
    calls: list[bool] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(True)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    inputs = tiny.inputs("<video> w1", videos=[video()])
    with HoliTom(retain_ratio=0.2)(tiny.model), torch.no_grad():
        tiny.model(**inputs)
    assert len(calls) == 2 + 4


def test_subclasses_are_the_same_family(tiny: Tiny) -> None:
    class Mine(type(tiny.model)):  # type: ignore[misc]
        pass

    model = Mine(tiny.model.config)
    assert isinstance(adapter_for(model), LlavaOnevision)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [7, 16, 27])
def test_pooling_is_the_stock_models_to_the_bit(tiny: Tiny, dtype: torch.dtype, side: int) -> None:
    """While a method is attached; another model's own pooling is left alone."""
    trunk = tiny.model.model
    vision = trunk.config.vision_config
    patches = torch.randn(3, side * side, 64, dtype=dtype)
    with mock.patch.multiple(vision, image_size=side * vision.patch_size):
        stock = trunk.apply_pooling(patches)
        with HoliTom()(tiny.model):
            assert torch.equal(trunk.apply_pooling(image_features=patches), stock)
            assert isinstance(trunk.apply_pooling, Wrapped)
    assert "apply_pooling" not in trunk.__dict__

    class Own(type(trunk)):  # type: ignore[misc]
        def apply_pooling(self, image_features: Any) -> Any:
            return super().apply_pooling(image_features) + 1

    other = build_model()
    other.model.__class__ = Own
    with HoliTom()(other):
        assert not isinstance(other.model.apply_pooling, Wrapped)
