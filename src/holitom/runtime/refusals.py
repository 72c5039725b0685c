"""What merging cannot serve: each check raises one sentence that says what would work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.interface import interface_error
from holitom.runtime.layout import Layout

Kwargs = dict[str, Any]


def check_not_compiled(model: nn.Module) -> None:
    """Refuse a compiled model: its graph would run without the hooks."""
    if any(map(_compiled, model.modules())):
        raise UnsupportedUsageError(
            "the model, or a part of it, was compiled (torch.compile) before the method was attached, "
            "and its graph would run past what merges; attach first and compile after, or do not compile"
        )


def _compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` was put on this module: around it, in place, or around its `forward`."""
    around = type(module).__name__ == "OptimizedModule"
    return around or bool(module._compiled_call_impl) or hasattr(module.forward, "_torchdynamo_orig_callable")


def check_embeddings(adapter: Adapter, given: Kwargs) -> None:
    """Refuse embeddings of placeholders without ids, which would stay without their video.

    Args:
        adapter: the model.
        given: arguments of the trunk's forward by name, without `input_ids`.
    """
    embeds: Tensor | None = given.get("inputs_embeds")
    brings = given.get(adapter.pixels_name) is not None or given.get("mm_encoder_outputs")
    if not brings and embeds is not None:
        trunk: Any = adapter.trunk
        table = trunk.get_input_embeddings()
        ids = torch.arange(table.weight.shape[0], device=table.weight.device)[None]
        holders = table(ids[adapter.placeholders(ids)]).to(embeds)
        brings = any(bool((embeds == holder).all(-1).any()) for holder in holders)
    if brings:
        raise UnsupportedUsageError(
            "inputs_embeds without input_ids: a video is found by its placeholder ids; pass input_ids"
        )


def check_owner(adapter: Adapter, foreign: bool) -> None:
    """Refuse features of another run, which lack what this method reads, and videos in chunks."""
    if foreign:
        raise UnsupportedUsageError(
            "these video features were encoded before this method was attached, or cut by "
            f"prefill_chunk_size; pass {adapter.pixels_name}, without chunked prefill"
        )


def check_nothing_missing(adapter: Adapter, ids: Tensor | None, cache: Any, came: bool) -> None:
    """Refuse a prompt with placeholders whose videos are missing.

    Args:
        adapter: the model.
        ids: `[B, L]`; None: the trunk was called with embeddings.
        cache: of this forward.
        came: whether the trunk was given pixels, of which nothing was encoded where it always was.
    """
    continues = ids is None or ids.shape[1] == 1 or (cache is not None and int(cache.get_seq_length()))
    if ids is None or (continues and not came):
        return
    if bool(adapter.placeholders(ids).any()):
        if came:
            raise interface_error(
                f"{type(adapter.trunk).__name__} has filled in its videos without what {adapter.encoder} "
                "returns"
            )
        raise UnsupportedUsageError(
            "the prompt has video placeholders, but its videos did not come with it; pass "
            f"{adapter.pixels_name}, without prefill_chunk_size"
        )


def check_no_gap(adapter: Adapter, layout: Layout, seen: int) -> None:
    """Refuse padding between the cache and new columns where a recurrent state would run over it."""
    if layout.padded and seen and not all(map(adapter.attends, range(len(adapter.layers)))):
        raise UnsupportedUsageError(
            "rows of several lengths cannot go on over a cache that holds recurrent states, which know "
            "no padding; go on with one row at a time, or with rows of one length"
        )


def check_mask(mask: Any) -> None:
    """Refuse a prepared mask: rows are packed by a 2D one, `[B, seen + L]`."""
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
        raise UnsupportedUsageError(
            "attention_mask must be 2D (1 at tokens, 0 at padding) while a method is attached"
        )


def check_attention(language_model: Any) -> None:
    """Refuse paged attention, whose cache holds the same tokens in every layer."""
    if str(language_model.config._attn_implementation).startswith("paged"):
        raise UnsupportedUsageError("continuous batching (paged attention) is not supported; use generate")


def check_labels(adapter: Adapter, arguments: Kwargs, ids: Tensor, layout: Layout) -> None:
    """Refuse labels that a merged-away token would have to predict.

    Args:
        adapter: the model.
        arguments: of the model's forward, by name: `labels`, or `shift_labels`, whose label of column `c + 1`
            stands at `c`, in the place of `labels`.
        ids: `[B, L]`.
        layout: where the tokens are at the end.
    """
    shifted, labels = arguments.get("shift_labels"), arguments.get("labels")
    if shifted is None:
        if labels is None:
            return
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    home = layout.home.to(shifted.device)
    stands = torch.zeros(shifted.numel(), dtype=torch.bool, device=shifted.device)
    stands = stands.index_fill_(0, home, True).view_as(shifted)
    holders = adapter.placeholders(ids).to(shifted.device)
    if bool(((shifted != -100) & holders & ~stands).any()):
        raise UnsupportedUsageError(
            "a label follows a video token that was merged away; set labels to -100 at every video "
            "placeholder and at the token right after them"
        )
