"""A model of published shapes with random weights, and a prompt of token ids for it.

Speed depends on shapes and on how much a video repeats, not on the values of weights. Weights are allocated
in their final precision and filled in place, so making a 7B model takes no more than its 16 GB.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from holitom.bench.machine import available_bytes
from holitom.costs.decoder import Decoder, Level
from holitom.costs.skeleton import skeleton
from holitom.errors import HolitomError, UnsupportedModelError

TEXT_TOKENS = 32  # tokens of the prompt besides the video's, as in `holitom flops`
BLOCK = 1_000_003  # a prime, so that rows of a matrix begin at different offsets of the noise
RESIDUAL = ("o_proj", "out_proj", "down_proj", "fc2")  # projections whose output is added to the residual


class TooLittleMemoryError(HolitomError, MemoryError):
    """A model of this shape does not fit into the free memory."""


def random_model(
    name: str, frames: int, dtype: torch.dtype, device: torch.device, share_layers: bool = False
) -> Any:
    """Make a model of `name`'s shapes with random weights, if it and a prompt of `frames` frames fit in
    memory.

    Args:
        name: see `holitom.costs.skeleton`: a published name, a config file, a checkpoint's folder.
        frames: number of frames of the prompt's video.
        dtype: dtype of the weights.
        device: device on which the weights are made.
        share_layers: whether all layers of the language model have the first one's weights.

    Raises:
        TooLittleMemoryError: the weights, or the memory for a prompt, do not fit.
        ModelError: there is no such config.
        UnsupportedModelError: the model is not of LLaVA-OneVision's family.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    shapes = skeleton(name, dtype)
    if shapes.config.model_type != "llava_onevision":
        raise UnsupportedModelError(
            f"random weights for a {shapes.config.model_type} model; supported: llava_onevision"
        )
    if share_layers:
        _share_layers(shapes)
    weights, besides = needed_bytes(shapes, frames)
    available = available_bytes(device)
    if available is not None and weights + besides > available:
        raise TooLittleMemoryError(
            f"{name} in {str(dtype).removeprefix('torch.')} needs about {(weights + besides) / 1e9:.1f} GB "
            f"({weights / 1e9:.1f} for weights, {besides / 1e9:.1f} to work on {frames} frames), and "
            f"{available / 1e9:.1f} GB are free on {device}: free some, or choose fewer frames, a smaller "
            "shape, a narrower dtype or one layer's weights for all layers (--share-layers)"
        )
    with torch.device(device), no_init_weights():
        model: Any = AutoModelForImageTextToText.from_config(
            shapes.config, dtype=dtype, attn_implementation="sdpa"
        )
    model.tie_weights()
    if share_layers:  # weights that no layer keeps were never written, so they took no memory on a CPU
        _share_layers(model)
    fill(model)
    model.generation_config.eos_token_id = None
    return model.eval()


def needed_bytes(shapes: Any, frames: int) -> tuple[int, int]:
    """Bytes of the weights of `shapes` (on the meta device), and estimated bytes for a prompt of `frames`.

    A prompt takes the KV cache of full tokens and the working set of a layer of the language model or the
    vision tower, whichever is larger: for every token, three times the feed-forward width and ten times the
    layer's width. In the tower it also takes every layer's output, which transformers keeps.
    """
    config = shapes.config
    text, tower = config.get_text_config(), config.vision_config
    item = next(shapes.parameters()).itemsize
    tokens = _slots(config, frames) + TEXT_TOKENS
    cache = Decoder.of(config).kv_bytes([Level(0, tokens)], item)
    language = tokens * (3 * text.intermediate_size + 10 * text.hidden_size)
    patches = frames * (tower.image_size // tower.patch_size) ** 2
    kept = tower.num_hidden_layers * tower.hidden_size
    looking = patches * (3 * tower.intermediate_size + 10 * tower.hidden_size + kept)
    weights = sum(weight.nbytes for weight in shapes.parameters())
    return weights, cache + item * max(language, looking)


def _share_layers(model: Any) -> None:
    """Give every layer of the language model the weights of the first; operations stay those of its shape."""
    first, *others = model.model.language_model.layers
    for path, weight in first.named_parameters():
        part, _, name = path.rpartition(".")
        for layer in others:
            setattr(layer.get_submodule(part), name, weight)


@torch.no_grad()
def fill(model: Any, seed: int = 0) -> None:
    """Fill every weight with copies of one block of noise, which is as fast as copying memory.

    Matrices get variance `1 / fan_in`; those whose output is added to the residual get `1 / (2 layers
    fan_in)`, so that activations stay finite and tokens stay different in any depth. Norms are the identity,
    biases zero.
    """
    rng = torch.Generator().manual_seed(seed)
    first = next(model.parameters())
    noise = torch.randn(BLOCK, generator=rng).to(first.device)
    depths = {
        part: len(layers) for part, layers in model.named_modules() if isinstance(layers, torch.nn.ModuleList)
    }
    for name, weight in model.named_parameters():
        kind = name.rpartition(".")[2]
        if kind == "bias":
            weight.zero_()
        elif kind == "weight" and weight.dim() == 1:
            weight.fill_(1)
        else:
            fan_in = weight[0].numel() if weight.dim() > 1 else weight.numel()
            depth = next((depth for part, depth in depths.items() if name.startswith(f"{part}.")), 0)
            ends = depth and any(part in name for part in RESIDUAL)
            scale = (fan_in * (2 * depth if ends else 1)) ** -0.5
            start = int(torch.randint(BLOCK, (), generator=rng))
            _repeat(weight.view(-1), (scale * noise.roll(start)).to(weight.dtype))


def _repeat(flat: Tensor, block: Tensor) -> None:
    whole = len(flat) // len(block)
    flat[: whole * len(block)].view(whole, len(block)).copy_(block.expand(whole, -1))
    rest = flat[whole * len(block) :]
    rest.copy_(block[: len(rest)])


class FramesProcessor:
    """LLaVA-OneVision's own video processor, for `fit_of` in the place of a model's whole processor.

    Args:
        model: the model whose vision tower's size frames are resized to.
    """

    def __init__(self, model: Any) -> None:
        from transformers import LlavaOnevisionVideoProcessor

        side = model.config.vision_config.image_size
        self.video_processor = LlavaOnevisionVideoProcessor(size={"height": side, "width": side})

    def __call__(self, text: Any = None, **settings: Any) -> Any:
        return self.video_processor(**settings)


def random_prompt(model: Any, frames: NDArray[Any], do_resize: bool = True) -> dict[str, Tensor]:
    """Make the model's inputs: `TEXT_TOKENS` arbitrary ids around the video `frames` `[F, H, W, 3]`.

    `do_resize` says whether the frames are still to be resized.
    """
    settings = {"do_sample_frames": False, "do_resize": do_resize, "return_tensors": "pt"}
    pixels = FramesProcessor(model)(videos=[frames], **settings).pixel_values_videos
    config = model.config
    words = torch.arange(config.get_text_config().vocab_size)
    words = words[(words != config.video_token_id) & (words != config.image_token_id)]
    text = words[torch.arange(TEXT_TOKENS) % len(words)]
    half = TEXT_TOKENS // 2
    video = torch.full((_slots(config, len(frames)),), config.video_token_id)
    ids = torch.cat([text[:half], video, text[half:]])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels.to(model.dtype),
    }


def _slots(config: Any, frames: int) -> int:
    """Number of placeholders of a video: one for each 2 x 2 patches, and one for the newline."""
    tower = config.vision_config
    side: int = math.ceil(tower.image_size // tower.patch_size / 2)
    return frames * side**2 + 1
