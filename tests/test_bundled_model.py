"""The bundled model: stock classes, the Hub's key layout, and answers that are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaOnevisionForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from holitom import HoliTom
from holitom.ask import ask, load_model, prompt
from holitom.bench import moving_digits as md
from holitom.bundled import (
    BUNDLED_MODEL,
    BUNDLED_MODELS,
    DEMO_QUESTION,
    DEMO_VIDEO,
    checkpoint,
    is_bundled,
)
from holitom.hub import located
from holitom.methods import HoliTomPlus, Method
from holitom.video import load_video


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    return load_model(str(BUNDLED_MODEL), "float32")


@pytest.fixture(scope="module")
def bundled_qwen() -> tuple[Any, Any]:
    return load_model("moving-digits-qwen", "float32")


def test_the_bundled_model_is_a_stock_checkpoint_of_at_most_16_mb() -> None:
    assert sum(f.stat().st_size for f in BUNDLED_MODEL.iterdir()) < 16e6
    model = AutoModelForImageTextToText.from_pretrained(BUNDLED_MODEL)
    assert type(model) is LlavaOnevisionForConditionalGeneration
    assert model.config.text_config.num_hidden_layers >= 8
    processor = AutoProcessor.from_pretrained(BUNDLED_MODEL)
    inputs = processor(text=["<video>"], videos=[md.sample("test", 0).frames], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.video_token_id).sum() == 16 * 49 + 1
    features = model.get_video_features(inputs["pixel_values_videos"].to(model.dtype)).pooler_output
    assert features.shape == (1, 16 * 49 + 1, model.config.text_config.hidden_size)


def test_keys_are_the_published_ones() -> None:
    with safe_open(BUNDLED_MODEL / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    tower = [n for n in names if n.startswith("vision_tower.")]
    assert tower
    assert all(n.startswith("vision_tower.vision_model.") for n in tower)
    assert "language_model.model.embed_tokens.weight" in names
    assert "language_model.lm_head.weight" in names
    assert "image_newline" in names


def test_the_bundled_qwen_is_a_stock_checkpoint_of_at_most_16_mb(bundled_qwen: tuple[Any, Any]) -> None:
    """It has two frames a step, time stamps, DeepStack and three axes of positions, as Qwen3-VL does."""
    folder = BUNDLED_MODELS["moving-digits-qwen"]
    assert sum(f.stat().st_size for f in folder.iterdir()) < 16e6
    model, processor = bundled_qwen
    assert type(model) is Qwen3VLForConditionalGeneration
    assert model.config.text_config.num_hidden_layers >= 8
    assert len(model.config.vision_config.deepstack_visual_indexes) > 0
    inputs = prompt(processor, load_video(DEMO_VIDEO, frames=16), DEMO_QUESTION)
    ids = inputs["input_ids"]
    assert (ids == model.config.video_token_id).sum() == 8 * 49
    assert processor.tokenizer.decode(ids[0]).count("seconds") == 8
    position, _ = model.model.get_rope_index(ids, inputs["mm_token_type_ids"], None, inputs["video_grid_thw"])
    assert len({tuple(axis.tolist()) for axis in position[:, 0]}) == 3
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
    assert all(name.startswith(("model.visual.", "model.language_model.", "lm_head.")) for name in names)


def test_the_bundled_qwen_answers_a_question_of_each_task(bundled_qwen: tuple[Any, Any]) -> None:
    """From a file over the stock processor, as `holitom ask --model moving-digits-qwen` does it."""
    model, processor = bundled_qwen
    video = load_video(DEMO_VIDEO, frames=16)
    asked = {question.task: question for question in md.sample("test", 35).questions}
    assert len(asked) == len(md.TASKS)
    for one in asked.values():
        inputs = prompt(processor, video, one.text)
        assert ask(model, processor, inputs, Method(retain_ratio=1), max_new_tokens=4).text == one.answer
    inputs = prompt(processor, video, DEMO_QUESTION)
    for method, runs in ((HoliTom(0.10), None), (HoliTomPlus(0.10), 8 * 49)):
        found = ask(model, processor, inputs, method, max_new_tokens=4)
        assert found.text == asked["needle"].answer
        assert runs in (None, found.report.videos[0].outer["temporal"])  # each token one of its own


@pytest.mark.parametrize("method", [Method(retain_ratio=1), HoliTom(0.10)], ids=["full", "holitom"])
def test_the_bundled_model_answers_the_demo_question(bundled: tuple[Any, Any], method: Method) -> None:
    model, processor = bundled
    video = load_video(DEMO_VIDEO, frames=16)
    answer = ask(model, processor, prompt(processor, video, DEMO_QUESTION), method, max_new_tokens=4)
    sample = md.sample("test", 35)  # what tools/render_demo.py renders
    assert answer.text == next(q.answer for q in sample.questions if q.text == DEMO_QUESTION)


def test_importance_is_larger_on_objects_than_on_background(bundled: tuple[Any, Any]) -> None:
    """Its last vision layer attends to digits and shapes, as a tower trained on images and text does."""
    from holitom.models import adapter_for

    model, processor = bundled
    adapter = adapter_for(model)
    video = md.sample("test", 1)
    pixels = processor(text=["<video>"], videos=[video.frames], return_tensors="pt")["pixel_values_videos"]
    seen: list[torch.Tensor] = []
    hook = adapter.vision_attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            adapter.importance({"hidden_states": kwargs.get("hidden_states", *args[:1])})
        ),
        with_kwargs=True,
    )
    with torch.inference_mode():
        encoded = model.get_video_features(pixels)
    hook.remove()
    tokens = adapter.videos(encoded, {"pixel_values_videos": pixels}, {"importance": seen[0]})[0]
    holds = torch.zeros(16, md.GRID, md.GRID, dtype=torch.bool)
    for d in video.digits:
        holds[d.start + torch.arange(len(d.cells)), d.cells[:, 1], d.cells[:, 0]] = True
    for f in video.flashes:
        holds[f.start : f.stop, f.cell[1], f.cell[0]] = True
    holds = holds.flatten(1)
    assert tokens.importance[holds].mean() > 3 * tokens.importance[~holds].mean()


def test_bundled_models_are_known_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, folder in BUNDLED_MODELS.items():
        assert located(name) == str(folder)
        assert is_bundled(name)
        assert is_bundled(str(folder))
    assert checkpoint(None) == str(BUNDLED_MODEL)
    assert is_bundled(None)
    assert checkpoint("owner/moving-digits") == "owner/moving-digits"
    assert not is_bundled("owner/moving-digits")
    # a folder of the same name comes first, as with an id of the Hub
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moving-digits").mkdir()
    (tmp_path / "moving-digits" / "config.json").touch()
    assert located("moving-digits") == "moving-digits"
    assert not is_bundled("moving-digits")
