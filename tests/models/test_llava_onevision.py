"""LLaVA-OneVision: importance from the last vision layer, tokens in the order of its own features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.reference import reference_importance
from support.tiny import Tiny, build_model, video
from torch import Tensor
from torch.testing import assert_close

import holitom.ops.attention
from holitom import HoliTom, MergedTokens, Method, VideoTokens
from holitom.models import adapter_for
from holitom.models.llava_onevision import LlavaOnevision


class Looks(Method):
    """Keeps everything and what it saw."""

    needs_importance = True

    def merge(self, video: VideoTokens) -> MergedTokens:
        seen.append(video)
        return super().merge(video)


seen: list[VideoTokens] = []


def look(tiny: Tiny, inputs: Any) -> list[VideoTokens]:
    seen.clear()
    with Looks(1.0)(tiny.model), torch.no_grad():
        tiny.model(**inputs)
    return list(seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_importance_is_the_attention_received(attention: str, dtype: torch.dtype, processor: Any) -> None:
    tiny = Tiny(build_model(attention, dtype), processor)
    inputs = tiny.inputs("<video> w1 <video>", videos=[video(seed=1), video(seed=2)]).to(dtype)
    pixels = inputs["pixel_values_videos"]
    for got, frames in zip(look(tiny, inputs), pixels, strict=True):
        wanted = reference_importance(tiny.model, frames)
        assert got.importance.dtype == torch.float32
        tolerance = 1e-6 if dtype == torch.float32 else 2e-3
        assert_close(got.importance, wanted, atol=tolerance, rtol=10 * tolerance)


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
