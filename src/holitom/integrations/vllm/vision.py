"""What the family files share: reading the last vision layer, and keys that tell ratios apart."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

from holitom.integrations.vllm.settings import method_of
from holitom.methods.base import Method
from holitom.ops.attention import frames_per_chunk, received_attention


class LastAttention:
    """Reads queries and keys on their way into the vision tower's last attention, which stays fused.

    vLLM's towers hand them over ready, rotated where the tower rotates, each rank its own heads.

    Args:
        attention: vLLM's `MMEncoderAttention` of that layer.
        method: says what to read; nothing is kept for a method that reads nothing.
        split: whether tensor parallelism splits the tower's heads.
    """

    def __init__(self, attention: nn.Module, method: Method, *, split: bool = True) -> None:
        self._attention: Any = attention
        self._ranks = get_tensor_model_parallel_world_size() if split else 1
        self._seen: tuple[Tensor, Tensor] | None = None
        self._open = False
        if method.needs_importance or method.needs_keys:
            attention.register_forward_pre_hook(self._see, with_kwargs=True)

    def __enter__(self) -> LastAttention:
        self._open, self._seen = True, None
        return self

    def __exit__(self, *_: object) -> None:
        self._open, self._seen = False, None

    def importance(self, frames: int) -> Tensor:
        """Attention that each patch of what was just encoded received in its frame: `[frames, P]` float32."""
        query, key = (self._by_head(states, frames) for states in self._read())
        step = frames_per_chunk(query.shape[1], query.shape[2])
        received = torch.cat(
            [
                received_attention(some, others, self._attention.scale)
                for some, others in zip(torch.split(query, step), torch.split(key, step), strict=True)
            ]
        )
        return self._over_ranks(received)

    def keys(self, frames: int) -> Tensor:
        """Keys averaged over heads, `[frames, P, d]`."""
        return self._over_ranks(self._by_head(self._read()[1], frames).mean(dim=1))

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open:
            given = dict(zip(("query", "key"), args, strict=False)) | kwargs
            self._seen = (given["query"], given["key"])

    def _read(self) -> tuple[Tensor, Tensor]:
        if self._seen is None:  # not an assertion: with merging silently off, counts would be wrong
            raise RuntimeError(
                "the vision tower's last attention was not called as a module; is it compiled?"
            )
        return self._seen

    def _by_head(self, states: Tensor, frames: int) -> Tensor:
        """`[frames, heads, P, d]`, whether heads come as an axis of their own or not."""
        return states.reshape(frames, -1, self._attention.num_heads, self._attention.head_size).transpose(
            1, 2
        )

    def _over_ranks(self, mean: Tensor) -> Tensor:
        if self._ranks == 1:
            return mean
        total: Tensor = tensor_model_parallel_all_reduce(mean)
        return total / self._ranks


class KeyedBySettings:
    """For a multimodal processor: videos merged with other settings never share a cache entry."""

    info: Any

    def _get_mm_hashes(self, inputs: Any) -> Any:
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        method = method_of(self.info.get_hf_config())
        if method is None or "video" not in hashes:
            return hashes
        settings = hashlib.sha256(repr(method).encode()).hexdigest()[:16]
        return {**hashes, "video": [f"{video}-{settings}" for video in hashes["video"]]}
