"""LLaVA-Video: checkpoints in their original layout, and a newline after every grid row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.families.llava_video import FRAMES, original_checkpoint, video
from torch.testing import assert_close

from holitom import HoliTom, Method, UnsupportedModelError
from holitom.errors import ModelError
from holitom.models.modeling_llava_video import converted_config, load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original_checkpoint(tmp_path_factory.mktemp("llava-video"))


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> tuple[Any, Any]:
    return load(str(checkpoint), dtype=torch.float32)


def ask(processor: Any, *videos: Any) -> Any:
    content = [*({"type": "video"} for _ in videos), {"type": "text", "text": "w1 w2"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=text, videos=list(videos), return_tensors="pt")


def test_every_weight_of_the_checkpoint_is_where_it_belongs(checkpoint: Path, loaded: Any) -> None:
    """The original's computation, written out from its own tensors: tower, projector, pooling, newlines."""
    from safetensors.torch import load_file

    model, processor = loaded
    weights = load_file(checkpoint / "model.safetensors")
    pixels = ask(processor, video())["pixel_values_videos"]
    got = model.get_video_features(pixels, return_dict=True).pooler_output[0]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        shape = (x.shape[-1],)
        return torch.nn.functional.layer_norm(
            x, shape, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6
        )

    tower = "model.vision_tower.vision_tower.vision_model"
    patch = weights[f"{tower}.embeddings.patch_embedding.weight"]
    bias = weights[f"{tower}.embeddings.patch_embedding.bias"]
    grid = torch.nn.functional.conv2d(pixels[0], patch, bias, stride=patch.shape[-1])
    hidden = grid.flatten(2).transpose(1, 2) + weights[f"{tower}.embeddings.position_embedding.weight"]
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in weights if f"{tower}.encoder" in name}
    for index in sorted(layers):
        layer = f"{tower}.encoder.layers.{index}"
        normed = norm(hidden, f"{layer}.layer_norm1")
        q, k, v = (
            linear(normed, f"{layer}.self_attn.{name}_proj").unflatten(-1, (4, -1)).transpose(1, 2)
            for name in "qkv"
        )
        mixed = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        hidden = hidden + linear(mixed.transpose(1, 2).flatten(2), f"{layer}.self_attn.out_proj")
        inner = torch.nn.functional.gelu(
            linear(norm(hidden, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1"), approximate="tanh"
        )
        hidden = hidden + linear(inner, f"{layer}.mlp.fc2")
    projected = linear(
        torch.nn.functional.gelu(linear(hidden, "model.mm_projector.0")), "model.mm_projector.2"
    )
    # 7 x 7 patches: the average of the 2 x 2 blocks that are whole, 3 x 3, and a newline after each row.
    wanted = []
    for frame in projected.view(FRAMES, 7, 7, -1):
        for row in range(3):
            wanted += [frame[2 * row : 2 * row + 2, 2 * c : 2 * c + 2].mean((0, 1)) for c in range(3)]
            wanted.append(weights["model.image_newline"])
    assert_close(got, torch.stack(wanted), atol=1e-5, rtol=1e-5)

    language = dict(model.model.language_model.named_parameters())
    for name, weight in language.items():
        assert torch.equal(weight, weights[f"model.{name}"])
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])


def test_64_frames_of_a_7b_have_182_placeholders_each() -> None:
    """What the paper calls 64 x 182: 27 x 27 patches, 13 x 13 after pooling, 13 newlines."""
    config = converted_config(
        {"architectures": ["LlavaQwenForCausalLM"], "mm_newline_position": "grid", "hidden_size": 64}
    )
    assert config.video_side == 13
    assert config.vision_config.num_hidden_layers == 26
    assert 64 * config.video_side * (config.video_side + 1) == 64 * 182


def test_processor_and_model_agree(loaded: Any) -> None:
    model, processor = loaded
    inputs = ask(processor, video(), video(seed=1))
    placeholders = int((inputs["input_ids"] == model.config.video_token_id).sum())
    assert placeholders == 2 * FRAMES * processor.tokens_per_frame() == 2 * FRAMES * 12
    counted = processor._get_num_multimodal_tokens(video_sizes=[(FRAMES, 640, 360)])
    assert counted["num_video_tokens"] == [FRAMES * 12]
    model.generate(**inputs, max_new_tokens=2)


def test_merged_rows_keep_a_newline_each(loaded: Any) -> None:
    """Static tokens in their segment's first frame, tokens by position, a newline after every row left."""
    model, processor = loaded
    inputs = ask(processor, video())
    embeds: list[torch.Tensor] = []
    first_layer = model.model.language_model.layers[0]
    hook = first_layer.register_forward_pre_hook(lambda module, args: embeds.append(args[0][0]))
    with hook, HoliTom(0.3, inner_drop=None)(model) as run, torch.no_grad():
        model(**inputs)
    assert run.last is not None
    (report,) = run.last.videos
    places = sorted(zip(report.frame.tolist(), report.position.tolist(), strict=True))
    rows = sorted({(frame, position // 3) for frame, position in places})
    assert report.sent == len(places) + len(rows)
    is_newline = (embeds[-1] == model.model.image_newline).all(-1)
    assert int(is_newline.sum()) == len(rows)
    first = int((inputs["input_ids"][0] == model.config.video_token_id).nonzero()[0])
    ends = [i for i, (a, b) in enumerate(zip(places, [*places[1:], (-1, -1)], strict=True))
            if (a[0], a[1] // 3) != (b[0], b[1] // 3)]  # fmt: skip
    wanted = [first + end + 1 + before for before, end in enumerate(ends)]
    assert is_newline.nonzero().flatten().tolist() == wanted


def test_a_saved_model_loads_with_the_same_outputs(loaded: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    inputs = ask(AutoProcessor.from_pretrained(tmp_path), video())
    with torch.no_grad(), Method(1.0)(again):
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_the_command_line_takes_an_original_checkpoint(checkpoint: Path) -> None:
    from holitom.ask import ask as answer
    from holitom.ask import load_model
    from holitom.costs import costs

    model, processor = load_model(str(checkpoint), "float32", "cpu")
    answered = answer(model, processor, ask(processor, video()), HoliTom(0.3), max_new_tokens=2)
    assert answered.report.videos[0].tokens == FRAMES * 9
    counted = costs(str(checkpoint), FRAMES, [0.5], "holitom-outer").vision
    assert (counted.frames, counted.tokens, counted.separators) == (FRAMES, 9, FRAMES * 3)


def test_remote_code_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    from holitom.ask import load_model

    config = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat"}
    config["auto_map"] = {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}  # type: ignore[assignment]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"InternVLChatModel runs code that came with its"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mm_newline_position", "frame"),
        ("mm_projector_type", "linear"),
        ("mm_spatial_pool_mode", "conv"),
        ("add_faster_video", True),
        ("mm_vision_tower", "openai/clip-vit-large-patch14-336"),
    ],
)
def test_variants_that_are_not_computed(field: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{field}=.*supported"):
        converted_config({field: value})


def test_other_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlavaLlamaForCausalLM"]}))
    with pytest.raises(UnsupportedModelError, match="LlavaLlamaForCausalLM, not LlavaQwenForCausalLM"):
        load(str(tmp_path))


def test_missing_weights(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for file in checkpoint.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.mm_projector.2.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing, such as model.multi_modal_projector.linear_2.bias"):
        load(str(tmp_path))


@pytest.mark.parametrize(("mode", "side"), [("average", 3), ("max", 3), ("bilinear", 4)])
def test_pool_modes(checkpoint: Path, mode: str, side: int) -> None:
    model, processor = load(str(checkpoint), dtype=torch.float32, pool_mode=mode)
    inputs = ask(processor, np.asarray(video()))
    assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == FRAMES * side * (side + 1)
    with torch.no_grad():
        plain = model(**inputs).logits
        with Method(1.0)(model):
            assert torch.equal(model(**inputs).logits, plain)
