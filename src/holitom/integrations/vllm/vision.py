"""Parts of all families in vLLM: reading the last vision layer, text between frames, keys of the caches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from vllm.distributed import (
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_gather,
    tensor_model_parallel_all_reduce,
)
from vllm.model_executor.layers.linear import QKVParallelLinear

from holitom.contract import Reuse
from holitom.errors import UnsupportedUsageError
from holitom.integrations.vllm.reuse import TowerReuse
from holitom.integrations.vllm.settings import method_of
from holitom.methods.base import Method
from holitom.ops.attention import frames_per_chunk, received_attention
from holitom.tokens import MergedTokens


class LastAttention:
    """Reads the inputs of the vision tower's last attention with hooks; the attention stays fused.

    Args:
        attention: vLLM's `MMEncoderAttention` of that layer.
        method: the method, which says whether importance and keys are needed.
        vllm_config: the engine's config.
        projection: for a tower that rotates queries and keys, the layer that makes them; keys are read there.
        reuse: the tower's reuse; a patch that was not computed has its reference's queries and keys.

    Raises:
        UnsupportedUsageError: the engine compiles the tower, which would then not run the hooks.
    """

    def __init__(
        self,
        attention: nn.Module,
        method: Method,
        vllm_config: Any,
        projection: nn.Module | None = None,
        reuse: TowerReuse | None = None,
    ) -> None:
        compilation = vllm_config.compilation_config
        if compilation.compile_mm_encoder or compilation.cudagraph_mm_encoder:
            raise UnsupportedUsageError(
                "holitom reads the vision tower's last layer, which compile_mm_encoder and "
                "cudagraph_mm_encoder hide; leave both off (the language model may be compiled)"
            )
        if vllm_config.lora_config is not None and vllm_config.lora_config.enable_tower_connector_lora:
            raise UnsupportedUsageError(
                "holitom merges with LoRA adapters of the language model only: vLLM counts an adapter's "
                "tokens in the tower by those of the prompt; leave enable_tower_connector_lora off"
            )
        self._attention: Any = attention
        self._method = method
        self._reuse = reuse
        self._ranks = get_tensor_model_parallel_world_size()
        # Else a rank has a piece of queries, keys and values side by side, and heads are known only gathered.
        self._own_heads = isinstance(projection, QKVParallelLinear)
        self._rotates = projection is not None
        self._open = False
        self._attending: tuple[Tensor, Tensor] | None = None
        self._projected: Tensor | None = None
        attention.register_forward_pre_hook(self._see_attention, with_kwargs=True)
        if projection is not None:
            projection.register_forward_hook(self._see_projection)

    def __enter__(self) -> LastAttention:
        self._open = True
        return self

    def __exit__(self, *_: object) -> None:
        self._open, self._attending, self._projected = False, None, None

    def importance(self, frames: int) -> Tensor:
        """Attention that each patch of the last encoded video received in its frame: `[frames, P]`
        float32."""
        query, key = self._attended(frames)
        if not self._method.needs_importance:
            return torch.zeros(frames, query.shape[2], device=query.device)
        step = frames_per_chunk(query.shape[1], query.shape[2])
        received = torch.cat(
            [
                received_attention(some, others, self._attention.scale)
                for some, others in zip(torch.split(query, step), torch.split(key, step), strict=True)
            ]
        )
        return self._over_ranks(received)

    def keys(self, frames: int) -> Tensor | None:
        """Keys before rotation, averaged over heads, `[frames, P, d]`; None for a method that needs none."""
        if not self._method.needs_keys:
            return None
        if not self._rotates:
            return self._over_ranks(self._attended(frames)[1].mean(dim=1))
        if self._projected is None:
            raise RuntimeError("the vision tower's last projection was not called as a module")
        projected, heads = self._projected, self._heads
        if not self._own_heads and self._ranks > 1:
            projected, heads = tensor_model_parallel_all_gather(projected), heads * self._ranks
        return self._over_ranks(self._by_head(projected.chunk(3, dim=-1)[1], frames, heads).mean(dim=1))

    def _attended(self, frames: int) -> tuple[Tensor, Tensor]:
        """Queries and keys, `[frames, heads, P, d]` each."""
        if self._attending is None:  # not an assertion: with nothing read, merging would be arbitrary
            raise RuntimeError("the vision tower's last attention was not called as a module")
        query, key = (self._by_head(states, frames, self._heads) for states in self._attending)
        return query, key

    def _see_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open:
            given = dict(zip(("query", "key"), args, strict=False)) | kwargs
            self._attending = (self._whole(given["query"]), self._whole(given["key"]))

    def _see_projection(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._open and self._method.needs_keys:
            self._projected = self._whole(output[0])

    def _whole(self, states: Tensor) -> Tensor:
        return states if self._reuse is None else self._reuse.whole(states)

    @property
    def _heads(self) -> int:
        """Number of heads that this tensor-parallel rank computes."""
        return int(self._attention.num_heads)

    def _by_head(self, states: Tensor, frames: int, heads: int) -> Tensor:
        """Reshape `states` to `[frames, heads, P, d]`, whether heads are an axis already or not."""
        by_head: Tensor = states.reshape(frames, -1, heads, int(self._attention.head_size))
        return by_head.transpose(1, 2)

    def _over_ranks(self, mean: Tensor) -> Tensor:
        if self._ranks == 1:
            return mean
        total: Tensor = tensor_model_parallel_all_reduce(mean)
        return total.div(self._ranks)


def among_text(
    merged: MergedTokens,
    tokens: int,
    ids: Tensor,
    placeholder: int,
    embed: Callable[[Tensor], Tensor],
    by_grid: bool,
) -> tuple[Tensor, Tensor]:
    """Put the text between a video's frames among its merged tokens, each token after its own frame's text.

    Args:
        merged: the video's merged tokens.
        tokens: `N`: number of tokens of one frame.
        ids: `[n]`: ids of the unmerged video with its text, frame after frame.
        placeholder: the id of the video's tokens in `ids`.
        embed: gives embeddings `[m, D]` for ids `[m]` of text.
        by_grid: whether tokens of a frame are in grid order; else in the order that the method gives.

    Returns:
        Rows `[M + m, D + E]`, text with streams of zeros, and the index `[M + m]` of each row in `ids`.
    """
    shown = ids == placeholder
    words, places = (kind.nonzero().squeeze(1) for kind in (~shown, shown))
    kept = merged.features if merged.streams is None else torch.cat([merged.features, merged.streams], dim=1)
    place = torch.cat([words, places[merged.frame * tokens + merged.position]])
    order = (place if by_grid else torch.cat([words, places[merged.frame * tokens]])).argsort(stable=True)
    text = embed(ids[words]).to(kept.dtype)
    text = torch.nn.functional.pad(text, (0, kept.shape[1] - text.shape[1]))
    return torch.cat([text, kept])[order], place[order]


class KeyedBySettings:
    """A mixin for a multimodal processor that puts the method's settings into the cache keys of videos."""

    info: Any

    def _get_mm_hashes(self, inputs: Any) -> Any:
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        method = method_of(self.info.get_hf_config())
        if method is None or "video" not in hashes:
            return hashes
        settings = hashlib.sha256(repr(method).encode()).hexdigest()[:16]
        return {**hashes, "video": [f"{video}-{settings}" for video in hashes["video"]]}


def worst_case(builder: type) -> type:
    """A subclass of vLLM's `builder` of the profiling run's inputs, in whose videos every frame changes.

    In vLLM's own videos all frames are equal. With reuse, the vision tower would compute little of them, and
    vLLM would plan too little memory.
    """

    def _get_dummy_videos(self: Any, **given: Any) -> list[Any]:
        videos: list[Any] = builder._get_dummy_videos(self, **given)  # type: ignore[attr-defined]
        method = method_of(self.info.get_hf_config())
        if method is None or not Reuse.of(method.reuse):
            return videos
        return [
            (_colours(video[0]), *video[1:]) if isinstance(video, tuple) else _colours(video)
            for video in videos
        ]

    return type(f"WorstCase{builder.__name__}", (builder,), {"_get_dummy_videos": _get_dummy_videos})


def _colours(frames: Any) -> Any:
    """Frames of the same shape in one colour each; any 64 successive colours differ."""
    digits = np.arange(len(frames))[:, None] // [1, 4, 16] % 4
    return np.broadcast_to((85 * digits).astype(np.uint8)[:, None, None], frames.shape).copy()
