"""Operation counts of the real model class on the meta device, where tensors have shapes and no values.

`FlopCounterMode` counts matrix products and convolutions, two operations for each multiply-add: linear
layers, attention's scores and weighted sums (the whole square, also where a causal kernel skips half of
it) and the patch embedding. It does not count softmax, norms, activations, rotary embeddings,
interpolation, look-ups, or any other elementwise work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicLayer

from holitom.contract import Merges
from holitom.costs.decoder import Level, spans
from holitom.costs.probe import probe_of
from holitom.models.base import Adapter
from holitom.models.values import EncodedImages
from holitom.runtime.cache import layer_bytes
from holitom.runtime.forward import by_name
from holitom.tokens import VideoTokens


@dataclass(frozen=True)
class VisionCount:
    """Operations of encoding one video, and the number of its tokens.

    Attributes:
        operations: operations by module class (vision tower, projector).
        importance: operations of computing importance, for methods that need it.
        keys: operations of computing keys, for methods that need them.
        frames: grids of tokens: one for each frame, or for two frames where the tower makes one grid of two.
        tokens: visual tokens of each grid.
        separators: further tokens in the prompt (newlines).
    """

    operations: dict[str, int]
    importance: int
    keys: int
    frames: int
    tokens: int
    separators: int

    def with_reading(self, method: Merges) -> int:
        """All operations of encoding, and of what `method` reads: importance, also in an early layer, and
        keys."""
        importance = self.importance * (method.needs_importance + method.needs_shallow)
        return sum(self.operations.values()) + importance + self.keys * method.needs_keys


@dataclass(frozen=True)
class CacheGroup:
    """Layers that get equally many tokens.

    Attributes:
        first, last: numbers of the first and the last layer (0-based, inclusive).
        tokens: tokens that each layer gets.
        bytes: bytes that all of them cache.
    """

    first: int
    last: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class PrefillCount:
    """Operations and cache of one prompt in the language model, with the head for the last token."""

    operations: int
    cache: tuple[CacheGroup, ...]

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values in all layers."""
        return sum(group.bytes for group in self.cache)


@torch.no_grad()
def count_vision(adapter: Adapter, frames: int, width: int, height: int) -> VisionCount:
    """Count the operations of encoding one video by `adapter`'s model, which is on the meta device.

    Args:
        adapter: the model's adapter.
        frames: frames of the video.
        width: width of a frame in pixels, before the model's processor resizes it.
        height: height of a frame in pixels, likewise.
    """
    trunk: Any = adapter.trunk
    probe = probe_of(adapter)
    given, parts = probe.part(probe.arguments(frames, width, height), frames)
    given[adapter.pixels_name] = given[adapter.pixels_name].to(next(trunk.parameters()).dtype)
    seen: list[dict[str, Any]] = []

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(by_name(module.forward, args, kwargs))

    hook = adapter.vision_attention.register_forward_pre_hook(see, with_kwargs=True)
    with hook, FlopCounterMode(display=False) as encoding:
        encoded = probe.encode(given)
    with FlopCounterMode(display=False) as reading:
        adapter.importance(seen[0])
    with FlopCounterMode(display=False) as reading_keys:
        adapter.keys(seen[0])

    shown, tokens, placeholders = _video(adapter, adapter.videos(encoded, given, {})[0], frames // parts)
    modules = {name: count for name, count in encoding.get_flop_counts().items() if "." not in name}
    del modules["Global"]
    return VisionCount(
        operations={name: parts * sum(count.values()) for name, count in modules.items()},
        importance=parts * reading.get_total_flops(),
        keys=parts * reading_keys.get_total_flops(),
        frames=parts * shown,
        tokens=tokens,
        separators=parts * (placeholders - shown * tokens),
    )


def _video(adapter: Adapter, encoded: VideoTokens | EncodedImages, frames: int) -> tuple[int, int, int]:
    """Frames, tokens per frame and placeholders of one encoded video; all images are its `frames`."""
    if isinstance(encoded, EncodedImages):
        return frames, len(encoded.features) // frames, len(encoded.features)
    return (*encoded.features.shape[:2], adapter.slots(encoded))


@torch.no_grad()
def count_prefill(model: Any, adapter: Adapter, levels: Sequence[Level]) -> PrefillCount:
    """Count the operations of prefilling one prompt by `model`, which is on the meta device.

    Args:
        model: the whole model, with its head at `get_output_embeddings`.
        adapter: the model's adapter.
        levels: tokens by layer, from layer 0 on. The operations of merging between levels are not counted.
    """
    language: Any = adapter.language_model
    width, dtype = language.config.hidden_size, next(language.parameters()).dtype
    embeds = torch.empty(1, levels[0].tokens, width, dtype=dtype, device="meta")
    counting = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _experts})
    with _shortened(adapter.layers, levels[1:]), counting as counter:
        output = language(inputs_embeds=embeds, use_cache=True)
        model.get_output_embeddings()(output.last_hidden_state[:, -1:])

    layers = output.past_key_values.layers
    groups = []
    for at, tokens in spans(levels, len(layers)):
        held = layers[at.start : at.stop]
        size = sum(map(layer_bytes, held))
        groups.append(CacheGroup(at.start, at.stop - 1, _held(held, tokens), size))
    return PrefillCount(counter.get_total_flops(), tuple(groups))


def _held(layers: Sequence[Any], tokens: int) -> int:
    """Tokens that the first attention layer of `layers` caches; `tokens` if all of them are recurrent."""
    return next((int(layer.get_seq_length()) for layer in layers if isinstance(layer, DynamicLayer)), tokens)


def _experts(tokens: tuple[int, ...], experts: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    """Operations of tokens `[M, K]` times their experts' weights `[E, K, N]`, which torch does not count."""
    return 2 * tokens[0] * tokens[1] * experts[-1]


@contextmanager
def _shortened(layers: nn.ModuleList, levels: Sequence[Level]) -> Iterator[None]:
    """Make each level's first layer, and all layers after it, run on the level's number of tokens."""
    with ExitStack() as hooks:
        for level in levels:
            for layer in list(layers)[level.start :]:
                hooks.enter_context(layer.register_forward_pre_hook(_shorten(level.tokens), with_kwargs=True))
        yield


def _shorten(tokens: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
    """Make a hook that cuts a layer's input to its first `tokens` tokens; counts do not depend on which."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cos, sin = kwargs["position_embeddings"]
        changed = {"position_embeddings": (cos[:, :tokens], sin[:, :tokens]), "position_ids": None}
        if (mask := kwargs.get("attention_mask")) is not None:
            changed["attention_mask"] = mask[..., :tokens, :tokens]
        return (args[0][:, :tokens], *args[1:]), {**kwargs, **changed}

    return hook
