"""Qwen's and GLM's vision language models: what is read in their towers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.families import Small, ready, small
from support.families.qwen2_5_vl import build, processor
from support.reference import attention_weights, language_arguments, positions_of, videos_of
from torch import Tensor, nn
from torch.testing import assert_close

import holitom.models.packed
from holitom import HoliTom, MergedTokens, Method, UnsupportedModelError, UnsupportedUsageError, VideoTokens
from holitom.models import adapter_for
from holitom.models.packed import stretches

WINDOWED = ("qwen2.5-vl", "qwen2.5-omni", "hyperclova-x")  # Qwen2.5-VL's tower
DEEP = ("qwen3-vl", "qwen3-vl-moe", "qwen3-omni", "cosmos3")
NAMES = ("qwen2-vl", *WINDOWED, *DEEP, "glm-4.1v", "glm-4.5v", "glm-4.6v", "glm-ocr")
each = pytest.mark.parametrize("name", NAMES)
GRIDS = [(4, 3, 4), (2, 2, 3)]  # of the two kinds of videos: temporal patch rows, rows and columns of tokens


def two(one: Small) -> Any:
    return one.inputs("w1 <video> w2 <video>", videos=[one.video(), one.video(1, kind=1)])


def windowed() -> Small:
    """Qwen2.5-VL whose last layer attends within windows, which no published checkpoint's does."""
    torch.manual_seed(0)
    return Small(small("qwen2.5-vl").family, ready(build("eager", torch.float32, full=(0,))), processor())


def window_order(grids: list[tuple[int, int, int]]) -> list[int]:
    """Qwen2.5-VL's order of tokens by hand: frame by frame, in it by windows of 2 x 2 tokens."""
    order, start = [], 0
    for frames, rows, columns in grids:
        for t in range(frames):
            for top in range(0, rows, 2):
                for left in range(0, columns, 2):
                    order += [
                        start + (t * rows + r) * columns + c
                        for r in range(top, min(top + 2, rows))
                        for c in range(left, min(left + 2, columns))
                    ]
        start += frames * rows * columns
    return order


def received_weights(one: Small, inputs: Any) -> list[Tensor]:
    """The weights `[heads, P, P]` that the tower's last attention computes, stretch after stretch."""
    pixels = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
    return [own[0] for own in attention_weights(one.model, lambda: one.model.get_video_features(**pixels))]


@pytest.mark.parametrize("name", [*NAMES, "windowed"])
def test_importance_is_the_attention_received(name: str) -> None:
    """Against the weights that the tower's own eager attention computes, videos of two sizes in one call."""
    one = windowed() if name == "windowed" else small(name, "eager")
    inputs = two(one)
    weights = received_weights(one, inputs)
    assert len(weights) == (4 * 4 + 2 * 2 if name == "windowed" else 4 + 2)  # windows, or temporal patch rows
    received = torch.cat([w.mean((0, 1)) for w in weights]).view(-1, 4).mean(1)
    if name in (*WINDOWED, "windowed"):
        in_order = torch.empty_like(received)
        in_order[torch.tensor(window_order(GRIDS))] = received
        received = in_order
    videos = videos_of(one.model, inputs)
    for video, (frames, rows, columns) in zip(videos, GRIDS, strict=True):
        assert video.grid == (rows, columns)
        assert video.features.shape[:2] == (frames, rows * columns)
        own, received = received[: frames * rows * columns], received[frames * rows * columns :]
        assert video.importance.dtype == torch.float32
        assert_close(video.importance.flatten(), own, atol=1e-6, rtol=1e-4)


@each
def test_keys_are_those_of_the_last_layer(name: str) -> None:
    """What it projects, before rotation, averaged over heads and over the four patches of a token."""
    one = small(name)
    inputs = two(one)
    adapter = adapter_for(one.model)
    seen: list[Tensor] = []
    hook = adapter.vision_attention.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    videos = videos_of(one.model, inputs)
    hook.remove()
    attention: Any = adapter.vision_attention
    with torch.no_grad():
        keys = attention.k(seen[0]) if name == "qwen2.5-omni" else attention.qkv(seen[0]).chunk(3, dim=1)[1]
        keys = keys.unflatten(1, (attention.num_heads, -1))
        keys = getattr(attention, "k_norm", nn.Identity())(keys).mean(1)
    keys = keys.view(-1, 4, keys.shape[-1]).mean(1)
    if name in WINDOWED:
        keys = keys[torch.tensor(window_order(GRIDS)).argsort()]
    got = [video.keys.flatten(0, 1) for video in videos if video.keys is not None]
    assert_close(torch.cat(got), keys, atol=1e-6, rtol=1e-4)


@each
def test_features_and_streams_are_the_models_own(name: str) -> None:
    one = small(name)
    inputs = two(one)
    with torch.no_grad():
        encoded = one.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
        )
    for index, video in enumerate(videos_of(one.model, inputs)):
        assert torch.equal(video.features.flatten(0, 1), encoded.pooler_output[index])
        if name in DEEP:
            assert video.streams is not None
            deep = torch.cat([layer[index] for layer in encoded.deepstack_features], dim=-1)
            assert torch.equal(video.streams.flatten(0, 1), deep)
        else:
            assert video.streams is None


@each
def test_the_towers_attention_stays_fused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with importance calls SDPA as often in the tower as one without."""
    one = small(name)
    inputs = two(one)
    calls: list[int] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    pixels = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
    counts = []
    for method in (Method(1.0), HoliTom(0.3)):
        calls.clear()
        with method(one.model), torch.no_grad():
            one.model.get_video_features(**pixels)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


@each
def test_importance_in_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = small(name)
    inputs = two(one)
    whole = videos_of(one.model, inputs)
    monkeypatch.setattr(holitom.models.packed, "frames_per_chunk", lambda heads, patches: 3)
    for video, wanted in zip(videos_of(one.model, inputs), whole, strict=True):
        assert_close(video.importance, wanted.importance)


def test_stretches_of_one_length_go_together() -> None:
    found = stretches(torch.tensor([0, 2, 5, 7, 7, 10]), torch.device("cpu"))
    assert [at.tolist() for at in found] == [[[0, 1], [5, 6]], [[2, 3, 4], [7, 8, 9]]]


@each
def test_time_stamps_and_marks_stay(name: str) -> None:
    """Only placeholders go; the text between frames is the prompt's."""
    one = small(name)
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    holds = adapter_for(one.model).placeholders(inputs["input_ids"])
    assert int(holds.sum()) == 48
    runs = int((holds.int().diff() == 1).sum())
    assert runs == (1 if name in ("qwen2-vl", "qwen3-omni", *WINDOWED) else 4)


@pytest.mark.parametrize(
    "name", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "glm-4.1v", "qwen2.5-omni", "qwen3-omni"]
)
@pytest.mark.parametrize("seconds", [0.5, 16.0])
def test_every_steps_positions_are_those_of_the_unmerged_model(name: str, seconds: float) -> None:
    """In `generate` and in a loop by hand, which stock numbers differently behind a long video.

    With 16 seconds from one temporal patch to the next, Qwen2.5-VL's video reaches far beyond its text.
    """
    one = small(name)
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    if "second_per_grid_ts" in inputs:
        inputs["second_per_grid_ts"] = torch.tensor([seconds])
    language: Any = adapter_for(one.model).language_model
    seen: list[Tensor] = []
    hook = language.rotary_emb.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs.get("position_ids", args[-1])), with_kwargs=True
    )

    def steps(method: Method) -> list[Tensor]:
        seen.clear()
        with method(one.model), torch.no_grad():
            one.model.generate(**inputs, max_new_tokens=3, do_sample=False)
            cache = one.model(**inputs, use_cache=True).past_key_values
            for token in (12, 13):
                one.model(input_ids=torch.tensor([[token]]), past_key_values=cache)
        return [ids.expand(3, -1, -1)[..., -1].clone() for ids in seen]

    full, merged = steps(Method(1.0)), steps(HoliTom(0.3))
    hook.remove()
    assert len(full) == 6
    for one_step, other in zip(full, merged, strict=True):
        assert torch.equal(one_step, other)
    positions = positions_of(language_arguments(one.model, inputs))
    assert (int(positions[0].max()) > int(positions[0, -1])) == (name == "qwen2.5-vl" and seconds == 16)


def test_a_method_without_streams_is_refused() -> None:
    class Bare(Method):
        def merge(self, video: VideoTokens) -> MergedTokens:
            whole = super().merge(video)
            return MergedTokens(whole.features, whole.frame, whole.position, whole.size, whole.segments, {})

    one = small("qwen3-vl")
    inputs = one.inputs("w1 <video> w2", videos=[one.video()])
    with Bare(1.0)(one.model), pytest.raises(UnsupportedUsageError, match="gives no streams"):
        one.model(**inputs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_images_of_a_later_turn_keep_their_streams_in_padded_rows(side: str) -> None:
    """DeepStack adds to an image's own columns, also where the rows of a turn are packed anew."""
    one = small("qwen3-vl")
    text = ["w9 <image> w8 w7 w6", "w5 <image> w4"]
    images = [one.image(), one.image(1)]
    first = one.inputs("w1 <video> w2", "w3 <video> w4", videos=[one.video(), one.video(1)])
    columns = first["input_ids"].shape[1]

    def second(inputs: Any, cache: Any, past: Tensor) -> Tensor:
        own = inputs.pop("attention_mask")
        positions = (own.cumsum(1) - 1 + columns).clamp_min(0).expand(3, -1, -1)
        mask = torch.cat([past, own], dim=1)
        out = one.model(**inputs, attention_mask=mask, position_ids=positions, past_key_values=cache)
        return out.logits  # type: ignore[no-any-return]

    with HoliTom(0.3, inner_drop=None)(one.model), torch.no_grad():
        cache = one.model(**first, use_cache=True).past_key_values
        inputs = one.inputs(*text, images=images, side=side)
        real = inputs["attention_mask"].bool()
        got = second(inputs, cache, first["attention_mask"])
        assert not bool(real.all())
        for row in range(2):
            cache = one.model(**first, use_cache=True).past_key_values
            cache.batch_select_indices(torch.tensor([row]))
            alone = one.inputs(text[row], images=images[row : row + 1])
            wanted = second(alone, cache, first["attention_mask"][row : row + 1])
            assert_close(got[row][real[row]], wanted[0], **one.family.close)


def test_sliding_windows_are_refused() -> None:
    model = small("qwen2-vl").model
    config = model.config.text_config
    before, config.layer_types = config.layer_types, ["full_attention"] * 3 + ["sliding_attention"]
    try:
        with pytest.raises(
            UnsupportedModelError, match="sliding-window layers; supported: use_sliding_window"
        ):
            adapter_for(model)
    finally:
        config.layer_types = before
