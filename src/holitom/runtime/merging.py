"""Plan a forward with merged tokens from the arguments of the language model's forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from holitom.models.base import Adapter
from holitom.models.interface import given_cache
from holitom.runtime import refusals
from holitom.runtime.accounts import report_on
from holitom.runtime.assignment import Assignment, assign
from holitom.runtime.attached import Attached
from holitom.runtime.cache import CacheRecord, Merged, adopt_dynamic
from holitom.runtime.call import Call, Kwargs
from holitom.runtime.forward import Forward
from holitom.runtime.inner import InnerMerge
from holitom.runtime.layout import placed
from holitom.runtime.plan import Columns, Plan, prefill, proceed
from holitom.runtime.prompt import Prompt
from holitom.runtime.report import Report, mark
from holitom.runtime.static import MergedStaticCache, adopt_static
from holitom.tokens import VideoTokens


def merge(attached: Attached, call: Call, videos: list[VideoTokens], asked: int, kwargs: Kwargs) -> Kwargs:
    """Plan a forward that brings videos, and set `call.forward`, `call.cache` and `call.report`.

    Args:
        attached: method and model.
        call: the call that the forward belongs to.
        videos: the videos of its prompt, at least one.
        asked: number of columns up to the end of the question.
        kwargs: arguments of the language model's forward, by name.

    Returns:
        The arguments that change.
    """
    adapter, began = attached.adapter, mark(kwargs["inputs_embeds"].device)
    ids, encoded = call.input_ids, call.encoded
    assert ids is not None
    assert encoded is not None
    cache, changed = _cache(attached, kwargs)
    columns = _columns(attached, kwargs, cache)
    found = encoded.merge(attached.method, adapter, videos)
    prompt = Prompt.read(
        columns.mask,
        adapter.placeholders(ids).to(columns.embeds.device),
        None if attached.numbering == "columns" else columns.positions,
        columns.seen,
        asked,
    )
    assignment = assign(prompt.holders, [adapter.slots(video) for video in found.videos], found.sent)
    if cache is not None or not prompt.query_offset:  # else a later step of `generate` without a cache
        call.report = report_on(found, assignment, adapter.frames_per_step, encoded.reuse)
        encoded.report = call.report
    inner = _inner(attached, prompt, assignment, columns.embeds.device, call.report)
    placements = assignment.placements()
    if columns.record is None and inner is None and all(each.is_whole for each in placements):
        # Every token stays: the stock forward runs on the method's features.
        changed["inputs_embeds"] = placed(columns.embeds, placements)
    else:
        stages = () if inner is None else tuple(inner.stages)
        plan = prefill(columns, prompt, placements, attached.numbering, stages)
        changed |= _begin(adapter, call, plan, cache, inner)
    if call.report is not None:
        call.report.prompt_tokens = (columns.shape[1], changed["inputs_embeds"].shape[1])
        for span in encoded.vision:
            call.report.add("vision", *span)
        call.report.add("merging", began, mark(columns.embeds.device))
    return changed


def go_on(attached: Attached, call: Call, cache: Merged, kwargs: Kwargs) -> Kwargs:
    """Plan a forward without videos over a cache that holds merged tokens.

    It sets `call.cache` and `call.forward`, but a step over a static cache needs no plan. Arguments and
    result are those of `merge`.
    """
    if isinstance(cache, MergedStaticCache) and kwargs["inputs_embeds"].shape[1] == 1:
        call.cache = cache
        return cache.step(attached.adapter, kwargs)
    plan = proceed(_columns(attached, kwargs, cache), attached.numbering)
    return _begin(attached.adapter, call, plan, cache, None)


def _columns(attached: Attached, kwargs: Kwargs, cache: Any) -> Columns:
    """Read the caller's columns from the language model's arguments."""
    embeds: Tensor = kwargs["inputs_embeds"]
    mask = kwargs.get("attention_mask")
    seen = 0 if cache is None else int(cache.get_seq_length())
    refusals.check_mask(mask, embeds.shape[0], embeds.shape[1], seen)
    record: CacheRecord | None = cache.record if isinstance(cache, Merged) else None
    return Columns(
        embeds=embeds,
        mask=mask,
        positions=kwargs.get("position_ids"),
        seen=seen,
        record=record,
        streams=attached.adapter.streamed(kwargs, (embeds.shape[0], embeds.shape[1])),
    )


def _inner(
    attached: Attached, prompt: Prompt, assignment: Assignment, device: torch.device, report: Report | None
) -> InnerMerge | None:
    """Make the inner stages of a prefill; None where they drop no token."""
    merging = [
        range(own.start, own.stop - int(asks))  # the query itself is not merged
        for own, asks in zip(assignment.numbers, prompt.video_asks, strict=True)
    ]
    if not attached.merges_inside([len(own) for own in merging]):
        return None
    return InnerMerge(
        stages=attached.stages,
        ranked_by=attached.ranked_by,
        query_offset=prompt.query_offset,
        questions=prompt.questions,
        numbers=[torch.arange(own.start, own.stop, device=device) for own in merging],
        videos=assignment.number_in_row(),
        guarded=assignment.guarded(),
        copies=assignment.copies,
        report=report,
    )


def _begin(adapter: Adapter, call: Call, plan: Plan, cache: Any, inner: InnerMerge | None) -> Kwargs:
    """Begin the forward of `plan`: set `call.forward` and `call.cache`, return the changed arguments."""
    if plan.layout is not None:
        refusals.check_no_gap(adapter, plan.layout, plan.seen)
    forward = Forward(adapter, plan, None if cache is None else _adopted(cache, plan.seen), inner)
    forward.allot(0)
    call.forward, call.cache = forward, forward.cache
    changed: Kwargs = {
        "inputs_embeds": plan.embeds,
        "attention_mask": plan.mask,
        "position_ids": plan.positions,
    }
    if plan.gaps and cache is None and plan.mask is None:
        # Without a mask, transformers would take gaps for packed sequences.
        changed["attention_mask"] = _all_tokens(plan)
    if plan.streams and plan.layout is not None:
        first = plan.streams[: len(plan.streams) - len(forward.streams)]
        stands = _all_tokens(plan) if plan.layout.mask is None else plan.layout.mask
        changed |= adapter.stream_arguments(list(first), stands)
    return changed


def _adopted(cache: Any, seen: int) -> Merged:
    """Turn `cache`, which holds `seen` columns of the caller's, into one that can hold merged tokens."""
    if not isinstance(cache, Merged):
        cache = adopt_static(cache) if isinstance(cache, StaticCache) else adopt_dynamic(cache)
    cache.before = seen
    adopted: Merged = cache
    return adopted


def _all_tokens(plan: Plan) -> Tensor:
    """Make the mask `[B, width]` of a batch without padding: all true."""
    return torch.ones(plan.embeds.shape[:2], dtype=torch.bool, device=plan.embeds.device)


def _cache(attached: Attached, kwargs: Kwargs) -> tuple[Any, Kwargs]:
    """Return the cache of this forward, and the changed arguments of the language model.

    Where the language model would make a cache itself, it is made here.
    """
    language: Any = attached.adapter.language_model
    refusals.check_attention(language)
    layer: Any = attached.adapter.layers[0]
    if getattr(layer, "gradient_checkpointing", False) and layer.training:
        if attached.stages:
            raise refusals.CHECKPOINTING.error()
        return None, {"use_cache": False, attached.cache_name: None}
    cache, use_cache = given_cache(kwargs), kwargs.get("use_cache")
    if cache is None and (language.config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=language.config)
    if cache is not None and not isinstance(cache, Merged):
        refusals.check_cache(cache, language)
    return cache, {attached.cache_name: cache}
