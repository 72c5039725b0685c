"""Framed towers: what is read in them, what is a frame, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import Small, ready, small
from support.families.internvl import SPECIAL, build
from support.families.letters import letter_tokenizer
from support.families.video_llama3 import processor as video_llama3_processor
from support.reference import attention_weights, reference_logits, videos_of
from torch import Tensor
from torch.testing import assert_close

from holitom import HoliTom, MergedTokens, Method, UnsupportedModelError, VideoTokens
from holitom.models import adapter_for

PATCHES = {"llava-video": 7, "llava-next-video": 8, "internvl": 6, "smolvlm2": 6}  # a side of a frame
OUTER = HoliTom(retain_ratio=0.4, similarity_threshold=0.8, inner_drop=None)


def encoded(one: Small, inputs: Any) -> Any:
    """What the model's own encoder returns."""
    adapter = adapter_for(one.model)
    names = ("pixel_values", "pixel_values_videos", "video_grid_thw", "video_merge_sizes")
    given = {name: inputs[name] for name in names if name in inputs}
    with torch.no_grad():
        return getattr(adapter.trunk, adapter.encoder)(**given, return_dict=True)


def blocks(patches: Tensor, side: int) -> Tensor:
    """Means over the 2 x 2 blocks of square frames `[F, side * side]` that are whole."""
    half = side // 2
    grid = patches.view(-1, side, side)[:, : 2 * half, : 2 * half]
    return grid.reshape(-1, half, 2, half, 2).mean((2, 4)).flatten(1)


@pytest.mark.parametrize("name", PATCHES)
def test_importance_is_the_attention_received(name: str) -> None:
    """Over all heads and queries, class tokens among them, pooled as the features are."""
    one = small(name, "eager")
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    received = torch.cat(attention_weights(one.model, lambda: encoded(one, inputs))).mean((1, 2))
    patches = received[:, -(PATCHES[name] ** 2) :]
    assert received.shape[1] - patches.shape[1] == (name in ("internvl", "llava-next-video"))
    (video,) = videos_of(one.model, inputs)
    assert_close(video.importance, blocks(patches, PATCHES[name]), atol=1e-6, rtol=1e-5)


def test_importance_in_a_packed_tower() -> None:
    """VideoLLaMA3: frames of two sizes in one sequence, patches of a token next to each other."""
    one = small("videollama3", "eager")
    inputs = one.inputs("<video> w1 <video>", videos=[one.video(), one.video(1, kind=1)])
    weights = attention_weights(one.model, lambda: encoded(one, inputs))
    received = torch.cat([own[0].mean((0, 1)) for own in weights]).view(-1, 4).mean(1)
    first, second = videos_of(one.model, inputs)
    assert (first.grid, second.grid) == ((3, 4), (2, 3))
    wanted = received.split([8 * 12, 4 * 6])
    assert_close(first.importance.flatten(), wanted[0], atol=1e-6, rtol=1e-5)
    assert_close(second.importance.flatten(), wanted[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llava-next-video", "internvl", "smolvlm2", "videollama3"])
def test_features_are_the_models_own(name: str) -> None:
    one = small(name)
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    (video,) = videos_of(one.model, inputs)
    sent = encoded(one, inputs).pooler_output
    sent = sent if isinstance(sent, Tensor) else torch.cat(list(sent))
    assert torch.equal(video.features.flatten(), sent.flatten())
    assert video.features.shape[1] == video.grid[0] * video.grid[1]


def test_the_layer_that_is_read_is_the_one_whose_output_is_used() -> None:
    one = small("llava-next-video")
    tower = one.model.model.vision_tower
    layers = getattr(tower, "vision_model", tower).encoder.layers
    assert adapter_for(one.model).vision_attention is layers[-2].self_attn


# --- frames and images --------------------------------------------------------------------------------


def frames_of(one: Small, inputs: Any) -> list[int]:
    with Method(1.0)(one.model) as run, torch.no_grad():
        one.model(**inputs)
    return [] if run.last is None else [video.frames for video in run.last.videos]


@pytest.mark.parametrize(
    ("prompt", "images", "frames"),
    [
        ("<image><image>", [(48, 48), (48, 48)], []),  # no video at all
        ("Image-1: <image>\nImage-2: <image>\n", [(48, 48), (48, 48)], []),  # as InternVL numbers images
        ("w1 <video> w2", [], [8]),
        ("Frame by frame: <video>\n<video>", [], [8, 8]),
        ("<image><video><image><image>", [(48, 48), (48, 144), (96, 48)], [8]),  # of one tile and of several
        ("<video>Frame9: <image>", [(48, 48)], [8]),  # no newline before it: not what the processor writes
    ],
)
def test_internvl_tells_frames_from_images(
    prompt: str, images: list[tuple[int, int]], frames: list[int]
) -> None:
    one = small("internvl")
    rng = np.random.default_rng(0)
    inputs = one.inputs(
        prompt,
        videos=[one.video(seed) for seed in range(len(frames))],
        images=[rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in images],
    )
    assert frames_of(one, inputs) == frames
    with torch.no_grad():
        full = one.model(**inputs).logits
        with OUTER(one.model) as run:
            merged = one.model(**inputs).logits
    assert torch.equal(full, merged) == (not frames)
    if run.last is not None:
        before, after = run.last.prompt_tokens
        saved = sum(video.tokens - video.sent for video in run.last.videos)
        assert before - after == saved > 0  # nothing of an image or of the text


def test_smolvlm_tells_frames_from_images() -> None:
    """Its processor takes no images beside videos, but the model does: put together by hand."""
    one = small("smolvlm2")
    clip = one.inputs("<video>", videos=[one.video()])
    still = one.inputs("w1 <image>", images=[one.image()])
    both = {
        "input_ids": torch.cat([still["input_ids"], clip["input_ids"], still["input_ids"]], dim=1),
        "pixel_values": torch.cat([still["pixel_values"], clip["pixel_values"], still["pixel_values"]], 1),
    }
    assert frames_of(one, both) == [8]
    assert frames_of(one, still) == []
    with OUTER(one.model), torch.no_grad():
        out = one.model(**both).logits[0, -1:]
    assert_close(out, reference_logits(one.model, both, OUTER, []), atol=3e-4, rtol=1e-3)


def test_a_video_of_one_frame_is_a_video() -> None:
    one = small("internvl")
    assert frames_of(one, one.inputs("<video> w1", videos=[one.video()[:1]])) == [1]


def test_the_tokenizer_beside_the_checkpoint_is_used(tmp_path: Path) -> None:
    from transformers import InternVLForConditionalGeneration

    one = small("internvl")
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    one.model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer at .*set model\.tokenizer"):
        OUTER.attach(InternVLForConditionalGeneration.from_pretrained(tmp_path))
    one.processor.save_pretrained(tmp_path)
    model = InternVLForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert not hasattr(model, "tokenizer")
    with torch.no_grad():
        with OUTER(one.model):
            wanted = one.model(**inputs).logits
        with OUTER(model):
            assert torch.equal(model(**inputs).logits, wanted)


# --- VideoLLaMA3's own compression ----------------------------------------------------------------------


def compressed() -> tuple[Small, Any]:
    """A video of which the processor drops most tokens: a still picture, one corner of which changes."""
    one = Small(small("videollama3").family, small("videollama3").model, video_llama3_processor(True))
    still = np.repeat(one.video()[:1], 8, axis=0)
    still[5:, :24, :24] = 255 - still[5:, :24, :24]
    return one, one.inputs("w1 <video> w2 w3", videos=[still])


def test_off_means_off_after_compression() -> None:
    one, inputs = compressed()
    held = int((inputs["input_ids"] == one.model.config.video_token_id).sum())
    assert held == int(inputs["video_compression_mask"].sum()) < 8 * 12
    with torch.no_grad():
        full = one.model(**inputs).logits
        with Method(1.0)(one.model):
            assert torch.equal(one.model(**inputs).logits, full)


@pytest.mark.parametrize("method", [OUTER, HoliTom(retain_ratio=0.4)], ids=["outer", "inner"])
def test_what_is_dropped_already_is_not_sent(method: Method) -> None:
    one, inputs = compressed()
    with method(one.model) as run, torch.no_grad():
        out = one.model(**inputs).logits[0, -1:]
    assert_close(out, reference_logits(one.model, inputs, method, []), atol=3e-4, rtol=1e-3)
    assert run.last is not None
    (video,) = run.last.videos
    kept = inputs["video_compression_mask"].view(8, 12)[video.frame, video.position]
    assert video.sent == int(kept.sum()) <= video.merged


def test_a_method_sees_early_importance_after_compression_too() -> None:
    seen: list[VideoTokens] = []

    class Looks(Method):
        needs_importance = needs_shallow = True

        def merge(self, video: VideoTokens) -> MergedTokens:
            seen.append(video)
            return super().merge(video)

    one, inputs = compressed()
    with Looks(1.0)(one.model), torch.no_grad():
        one.model(**inputs)
    (video,) = seen
    assert video.shallow is not None
    assert video.shallow.shape == video.importance.shape
    assert not torch.equal(video.shallow, video.importance)


def test_a_token_is_sent_where_all_are_dropped_already() -> None:
    """An answer about no token is no answer."""

    class Keeps(Method):
        def merge(self, video: VideoTokens) -> MergedTokens:
            whole = super().merge(video)
            at = slice(30, 33)  # of a frame that repeats the first
            return replace(
                whole,
                features=whole.features[at],
                frame=whole.frame[at],
                position=whole.position[at],
                size=whole.size[at],
            )

    one, inputs = compressed()
    assert not inputs["video_compression_mask"][30:33].any()
    method = Keeps(1.0)
    with method(one.model) as run, torch.no_grad():
        out = one.model(**inputs).logits[0, -1:]
    assert_close(out, reference_logits(one.model, inputs, method, []), atol=3e-4, rtol=1e-3)
    assert run.last is not None
    assert run.last.videos[0].place.tolist() == [30]


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "field", "value"),
    [
        ("llava-next-video", "", "spatial_pool_mode", "conv"),
        ("llava-next-video", "", "vision_feature_select_strategy", "full"),
        ("llava-next-video", "vision_config", "model_type", "siglip_vision_model"),
        ("videollama3", "text_config", "layer_types", ["sliding_attention"] * 4),
        ("internvl", "", "vision_feature_select_strategy", "full"),
        ("internvl", "text_config", "model_type", "gpt_oss"),
        ("smolvlm2", "text_config", "model_type", "mamba"),
        ("videollama3", "vision_config", "model_type", "qwen2_vl"),
        ("minicpm-v-4.6", "text_config", "model_type", "qwen3"),
        ("minicpm-v-4.6", "text_config", "layer_types", ["sliding_attention"] * 5),
        ("minicpm-v-4.6", "vision_config", "insert_layer_id", 2),
        ("minicpm-v-4.7", "vision_config", "model_type", "siglip_vision_model"),
    ],
)
def test_unknown_variants_are_refused(
    name: str, where: str, field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(name).model
    config = getattr(model.config, where) if where else model.config
    monkeypatch.setattr(config, field, value)
    with pytest.raises(UnsupportedModelError, match="supported"):
        OUTER.attach(model)


def test_frames_are_text_to_another_tokenizer() -> None:
    """What reads the marks is the tokenizer that wrote them."""
    torch.manual_seed(0)
    model = ready(build("sdpa", torch.float32))
    model.tokenizer = letter_tokenizer(SPECIAL)
    one = small("internvl")
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    assert frames_of(Small(one.family, model, one.processor), inputs) == [8]
