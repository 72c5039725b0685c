"""Counts, cache keys and refusals, in vLLM's own configuration and processors; no engine is started."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_qwen
from support.serving import squares

from holitom.bundled import BUNDLED_MODEL
from holitom.integrations.vllm.settings import method_of

pytestmark = pytest.mark.vllm

VIDEO, IMAGE = 4, 3  # the bundled model's placeholders


@pytest.fixture(scope="module", autouse=True)
def plugins() -> None:
    """As every vLLM process does: find the installed plugins by their entry points, and call them."""
    from vllm.plugins import load_general_plugins

    assert "holitom" in entry_points(group="vllm.general_plugins").names
    load_general_plugins()


def configured(holitom: object = None, model: Path = BUNDLED_MODEL, **settings: Any) -> Any:
    from vllm.config import ModelConfig

    overrides = {} if holitom is None else {"holitom": holitom}
    return ModelConfig(model=str(model), hf_overrides=overrides, max_model_len=2048, **settings)


def processor(holitom: object = None, model: Path = BUNDLED_MODEL, **settings: Any) -> Any:
    from vllm.multimodal import MULTIMODAL_REGISTRY

    return MULTIMODAL_REGISTRY.create_processor(configured(holitom, model, **settings))


def processed(made: Any, prompt: str, **data: Any) -> Any:
    return made(prompt, made.info.parse_mm_data(data))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"retain_ratio": 0.25},
        {"retain_ratio": 1},
        {"retain_ratio": 1e-6},
        {"method": "evs", "retain_ratio": 0.3},
        {"method": "dycoke", "retain_ratio": 0.5},
        {"method": "visionzip", "retain_ratio": 0.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("frames", [1, 7, 16])
def test_a_videos_placeholders_are_counted_from_its_shape(entry: dict[str, Any], frames: int) -> None:
    made = processor(entry)
    count = method_of(made.info.get_hf_config()).merged_count(frames, 49) + 1
    noise = np.random.default_rng(0).integers(0, 256, (frames, 112, 112, 3), dtype=np.uint8)
    for shown in (np.zeros_like(noise), noise):
        got = processed(made, "<video> how many", video=[shown])
        assert got["prompt_token_ids"].count(VIDEO) == count
        (place,) = got["mm_placeholders"]["video"]
        assert place.length == count


def test_without_an_entry_nothing_changes() -> None:
    from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration as Stock
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = configured()
    ours = MULTIMODAL_REGISTRY.create_processor(config)
    stock = Stock._processor_factory.build_processor(ours.info.ctx)
    clips = [squares(1), squares(2, frames=5)]
    picture = Image.fromarray(squares(3, frames=1)[0])
    for made in (ours, stock):
        made.got = processed(made, "<video> <image> <video>", video=clips, image=[picture])
    assert ours.got["prompt_token_ids"] == stock.got["prompt_token_ids"]
    assert ours.got["prompt_token_ids"].count(VIDEO) == 49 * (16 + 5) + 2
    assert ours.got["mm_hashes"] == stock.got["mm_hashes"]
    most = {"seq_len": 2048, "mm_counts": {"video": 2}}
    assert ours.info.get_num_frames_with_most_features(
        **most
    ) == stock.info.get_num_frames_with_most_features(**most)


def test_settings_are_part_of_a_videos_cache_key_and_of_no_images() -> None:
    clip, picture = squares(1), Image.fromarray(squares(3, frames=1)[0])
    entries: list[dict[str, Any] | None] = [
        None,
        {"retain_ratio": 0.1},
        {"retain_ratio": 0.2},
        {"method": "evs", "retain_ratio": 0.2},
        {"retain_ratio": 0.1, "reuse": True},
        {"retain_ratio": 0.1, "reuse": {"threshold": 8}},
    ]
    hashes = [
        processed(processor(entry), "<video> <image>", video=[clip], image=[picture])["mm_hashes"]
        for entry in entries
    ]
    assert len({video for found in hashes for video in found["video"]}) == len(entries)
    assert len({image for found in hashes for image in found["image"]}) == 1
    again = processed(processor({"retain_ratio": 0.1}), "<video>", video=[clip])["mm_hashes"]
    assert again["video"] == hashes[1]["video"]


@pytest.mark.parametrize("family", ["llava", "Qwen2_5_VL"])
def test_the_profiling_run_leaves_nothing_to_reuse(qwen: Callable[[str], Path], family: str) -> None:
    """Else memory would be planned for a tower that hardly computes anything. Without reuse: vLLM's own."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    folder = BUNDLED_MODEL if family == "llava" else qwen(family)
    for entry, alike in (({"retain_ratio": 0.1}, True), ({"retain_ratio": 0.1, "reuse": True}, False)):
        config = configured(entry, folder)
        made = MULTIMODAL_REGISTRY.create_processor(config)
        (video,) = made.dummy_inputs.get_dummy_mm_data(2048, {"video": 1}, {})["video"]
        frames = video[0] if isinstance(video, tuple) else video
        assert len(frames) >= 2
        apart = np.abs(frames[1:].astype(int) - frames[:-1]).max(-1)
        assert (apart == 0).all() if alike else (apart >= 85).all()


def test_the_profiling_run_ends_however_little_is_kept() -> None:
    info = processor({"retain_ratio": 1e-9}).info
    assert info.get_num_frames_with_most_features(32768, {"video": 1}) == 16
    assert info.get_num_frames_with_most_features(2, {"video": 1}) == 16
    info = processor({"retain_ratio": 1}).info
    assert info.get_num_frames_with_most_features(49 * 5 + 1, {"video": 1}) == 5
    assert info.get_num_frames_with_most_features(2 * (49 * 5 + 1), {"video": 2}) == 5


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"retain_ratio": 0}, "retain_ratio must be a number in (0, 1], got 0"),
        ({"retain_ratio": 2}, "retain_ratio must be a number in (0, 1], got 2"),
        ({"retain_ratio": "a lot"}, "retain_ratio must be a number in (0, 1], got 'a lot'"),
        ({"inner_drop": 0.5}, "paged KV cache"),
        ("10%", "must be settings"),
    ],
    ids=str,
)
def test_wrong_settings_stop_the_configuration(entry: object, says: str) -> None:
    from vllm.engine.arg_utils import EngineArgs

    with pytest.raises(ValueError, match=re.escape(says)):
        EngineArgs(model=str(BUNDLED_MODEL), hf_overrides={"holitom": entry}).create_engine_config()


def test_vllms_own_pruning_beside_it_is_refused(qwen: Callable[[str], Path]) -> None:
    from holitom import HolitomError

    with pytest.raises((ValueError, HolitomError), match="--video-pruning-rate"):
        configured({"retain_ratio": 0.1}, qwen("Qwen2_5_VL"), video_pruning_rate=0.5)


def test_another_vllm_is_refused_with_those_that_were_tested_and_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an entry it is served as ever; nothing of the plugin is in its way."""
    import vllm

    from holitom import UnsupportedUsageError

    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    assert configured()
    with pytest.raises(
        UnsupportedUsageError, match=r"vLLM 0\.99\.0: it was tested with 0\.32, .* 0\.33 were read"
    ):
        configured({"retain_ratio": 0.1})


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    from holitom import UnsupportedModelError

    text = json.loads((BUNDLED_MODEL / "config.json").read_text())["text_config"]
    (tmp_path / "config.json").write_text(json.dumps({**text, "architectures": ["Qwen2ForCausalLM"]}))
    assert configured(None, tmp_path, skip_tokenizer_init=True)
    with pytest.raises(UnsupportedModelError, match="Qwen2ForCausalLM"):
        configured({"retain_ratio": 0.1}, tmp_path, skip_tokenizer_init=True)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints of Qwen's families, each written once."""

    @cache
    def saved(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        tiny_qwen.save(folder, family)
        return folder

    return saved


def timed(frames: Any, fps: float = 8.0) -> tuple[Any, dict[str, Any]]:
    """Frames with when they were shown, as vLLM's loaders give them."""
    metadata = {
        "fps": fps,
        "duration": len(frames) / fps,
        "total_num_frames": len(frames),
        "frames_indices": list(range(len(frames))),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }
    return frames, metadata


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_qwen_counts_by_temporal_patches(qwen: Callable[[str], Path], family: str) -> None:
    """12 frames are 6 patches in time; 48 x 64 pixels are 3 x 4 tokens."""
    frames = np.zeros((12, 48, 64, 3), np.uint8)
    video = frames if family == "Qwen2VL" else timed(frames)
    # Of each of Qwen3-VL's temporal patches: a time stamp of two words, start and end.
    text = 6 * 4 if family.startswith("Qwen3") else 0
    lengths = {}
    for entry, count in ((None, 72), ({"retain_ratio": 0.3}, round(0.3 * 72)), ({"retain_ratio": 1}, 72)):
        got = processed(processor(entry, qwen(family)), f"w1 {tiny_qwen.VIDEO} w2", video=[video])
        lengths[count] = len(got["prompt_token_ids"])
        assert lengths[count] == 4 + text + count
        (place,) = got["mm_placeholders"]["video"]
        assert place.length == text + count
        assert place.get_num_embeds() == count + (text if entry else 0), "merged, its text comes embedded"


def test_time_stamps_are_part_of_a_merged_videos_cache_key(qwen: Callable[[str], Path]) -> None:
    """They come embedded, so that no id of the prompt tells two of them apart."""
    frames = squares(1, frames=4)
    made = processor({"retain_ratio": 0.3}, qwen("Qwen3VL"))
    hashes = [
        processed(made, tiny_qwen.VIDEO, video=[timed(frames, fps)])["mm_hashes"]["video"]
        for fps in (8.0, 4.0, 8.0)
    ]
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize("family", ["Qwen2_5_VL", "Qwen3VL"])
def test_mm_processor_kwargs_change_the_grid_and_the_count_with_it(
    qwen: Callable[[str], Path], family: str
) -> None:
    """As `--mm-processor-kwargs` does for a server: smaller frames, fewer tokens, the same share of them."""
    video, lengths = timed(squares(1, frames=8)), []
    together = 8 if family == "Qwen3VL" else 1  # its limit is of a video, Qwen2.5-VL's of a frame
    for edge in (together * 112 * 112, together * 56 * 56):
        given = {"size": {"shortest_edge": 1024, "longest_edge": edge}}
        made = processor({"retain_ratio": 0.3}, qwen(family), mm_processor_kwargs=given)
        got = processed(made, f"w1 {tiny_qwen.VIDEO} w2", video=[video])
        (item,) = got["mm_kwargs"]["video"]
        frames, height, width = item["video_grid_thw"].data.tolist()
        (place,) = got["mm_placeholders"]["video"]
        text = frames * 4 if family == "Qwen3VL" else 0
        lengths.append(place.length - text)
        assert lengths[-1] == round(0.3 * frames * height * width / 4)
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize("family", ["Qwen2VL", "Qwen2_5_VL"])
def test_video_embeddings_are_refused(qwen: Callable[[str], Path], family: str) -> None:
    """Whoever sends what came out of a tower sends no pixels, importance or keys to merge by."""
    from holitom import VideoError

    made = processor({"retain_ratio": 0.3}, qwen(family), enable_mm_embeds=True)
    width = made.info.get_hf_config().get_text_config().hidden_size
    embedded = {"video_embeds": torch.zeros(6, width), "video_grid_thw": torch.tensor([[1, 4, 6]])}
    if family == "Qwen2_5_VL":
        embedded["second_per_grid_ts"] = torch.tensor([0.25])
    with pytest.raises(VideoError, match="send the video itself"):
        processed(made, f"w1 {tiny_qwen.VIDEO} w2", video=embedded)
