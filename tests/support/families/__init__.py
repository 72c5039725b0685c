"""Small models of the real classes, one file a family, behind one face: what `tests/families` asks of each.

A new family is one file with a `FAMILY` and one line in `FAMILIES`; the whole matrix then runs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FAMILIES = {
    "llava-onevision": "support.families.llava_onevision",
    "llava-video": "support.families.llava_video",
    "llava-next-video": "support.families.llava_next_video",
    "internvl": "support.families.internvl",
    "internvl-moe": "support.families.internvl_moe",
    "smolvlm2": "support.families.smolvlm",
    "videollama3": "support.families.video_llama3",
    "minicpm-v-4.6": "support.families.minicpmv4_6",
    "minicpm-v-4.7": "support.families.minicpmv4_7",
    "qwen2-vl": "support.families.qwen2_vl",
    "qwen2.5-vl": "support.families.qwen2_5_vl",
    "qwen3-vl": "support.families.qwen3_vl",
    "qwen3-vl-moe": "support.families.qwen3_vl_moe",
    "qwen3.5": "support.families.qwen3_5",
    "qwen3.5-moe": "support.families.qwen3_5_moe",
    "glm-4.1v": "support.families.glm4v",
    "glm-4.5v": "support.families.glm4v_moe",
    "glm-4.6v": "support.families.glm46v",
    "glm-ocr": "support.families.glm_ocr",
    "qwen2.5-omni": "support.families.qwen2_5_omni",
    "qwen3-omni": "support.families.qwen3_omni",
    "hyperclova-x": "support.families.hyperclovax",
    "cosmos3": "support.families.cosmos3",
}

TEXT = [f"w{index}" for index in range(48)]


@dataclass(frozen=True)
class Family:
    """One family, made small.

    Attributes:
        model: makes one, given the attention implementation and the dtype; the weights are always the same.
        processor: makes its processor.
        tokens: what stands for `<video>` and `<image>` in this family's prompts.
        videos: frames, height and width of the usual video and of another kind; the same where a batch must
            have one kind.
        images: whether a prompt may hold images besides videos.
        beams: whether the stock model can generate with beams and videos.
        later_videos: whether it numbers a video over a cache as it would in a whole prompt.
        rounding: how far the stock model's logits lie apart in float32, computed one way or another. Gated
            delta nets of loud random weights make much of it; in float64 what is tested agrees to 2e-7.
        silent: names of config fields with ids that greedy tests must not generate.
        settings: further arguments of the processor.
        since: the oldest transformers with which the family's stock classes do what the tests ask: before it
            a processor fails (SmolVLM2, MiniCPM-V), or the model is laid out otherwise (Omni), which is
            refused.
    """

    model: Callable[[str, torch.dtype], Any]
    processor: Callable[[], Any]
    tokens: dict[str, str] = field(default_factory=dict)
    videos: tuple[tuple[int, int, int], tuple[int, int, int]] = ((8, 48, 64), (4, 32, 48))
    images: bool = True
    beams: bool = True
    later_videos: bool = True
    rounding: float = 3e-4
    silent: Sequence[str] = ("image_token_id", "video_token_id")
    settings: dict[str, Any] = field(default_factory=dict)
    since: str = "5.19"

    @property
    def close(self) -> dict[str, float]:
        """What `torch.testing.assert_close` is to allow."""
        return {"atol": self.rounding, "rtol": 1e-3}


@dataclass(frozen=True)
class Small:
    """A family's model with its processor."""

    family: Family
    model: Any
    processor: Any

    def video(self, seed: int = 0, kind: int = 0) -> np.ndarray[Any, Any]:
        """A still picture with noise and a cut in the middle, `[frames, height, width, 3]` uint8."""
        frames, height, width = self.family.videos[kind]
        rng = np.random.default_rng(seed)
        scenes = rng.integers(0, 256, (2, height, width, 3))
        noise = rng.integers(-12, 13, (frames, height, width, 3))
        shots = np.stack([scenes[2 * t // frames] for t in range(frames)])
        return np.clip(shots + noise, 0, 255).astype(np.uint8)

    def image(self, seed: int = 0) -> np.ndarray[Any, Any]:
        """A random picture."""
        _, height, width = self.family.videos[0]
        return np.random.default_rng(seed + 1000).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def inputs(
        self, *prompts: str, videos: Any = None, images: Any = None, side: str = "left", **settings: Any
    ) -> Any:
        """What the processor makes of prompts with `<video>` and `<image>`, padded on `side`."""
        self.processor.tokenizer.padding_side = side
        texts = list(prompts)
        for mark, own in self.family.tokens.items():
            texts = [text.replace(mark, own) for text in texts]
        given: dict[str, Any] = dict(self.family.settings)
        if videos:
            given["videos"] = list(videos)
            given["do_sample_frames"] = False
            given["video_metadata"] = [
                {"fps": 4.0, "total_num_frames": len(v), "frames_indices": list(range(len(v)))}
                for v in videos
            ]
        if images:
            given["images"] = list(images)
        with torch.device("cpu"):  # where processors work, whatever the default is
            inputs = self.processor(text=texts, padding=True, return_tensors="pt", **given, **settings)
        return inputs.to(self.model.device, self.model.dtype)

    @property
    def unspoken(self) -> list[int]:
        """Ids that greedy tests must not generate: another placeholder would be another video."""
        return [int(getattr(self.model.config, name)) for name in self.family.silent]


def small(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Small:
    """A family's model; the same one for the same arguments, so leave nothing on it."""
    return _small(name, attention, dtype)


@cache
def _small(name: str, attention: str, dtype: torch.dtype) -> Small:
    family: Family = import_module(FAMILIES[name]).FAMILY
    if Version(transformers.__version__) < Version(family.since):
        pytest.skip(f"{name} needs transformers {family.since}")
    torch.manual_seed(0)
    device = torch.get_default_device()
    with torch.device("cpu"):  # the same weights on every device
        model, processor = ready(family.model(attention, dtype)), family.processor()
    return Small(family, model.to(device, dtype), processor)


def ready(model: Any) -> Any:
    """Fresh weights attend evenly and say one word for ever: louder ones make every token matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() >= 2 and "position_embedding" not in name:
                loud = 1.5 * weight[0].numel() ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * loud)
        embeddings = model.get_input_embeddings().weight
        embeddings.copy_(torch.randn(embeddings.shape, generator=generator))
    model.generation_config.eos_token_id = None  # every generation runs to its full length
    model.generation_config.pad_token_id = 0
    return model.eval()


def word_tokenizer(special: Sequence[str] | dict[str, str], text: Sequence[str] = TEXT) -> Any:
    """A tokenizer of whole words: `<pad>` is 0, `<end>` 1, `<unk>` 2, then `special`, then `text`.

    `special` may name each by the attribute that a processor asks for.
    """
    named = isinstance(special, dict)
    words = ["<pad>", "<end>", "<unk>", *(special.values() if named else special), *text]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=dict(special) if named else list(special),
    )
