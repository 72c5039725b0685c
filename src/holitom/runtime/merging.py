"""Plan a forward with merged tokens from the arguments of the language model's forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from holitom.models.interface import given_cache
from holitom.runtime import refusals
from holitom.runtime.attached import Attached
from holitom.runtime.cache import CacheRecord, Merged, adopt_dynamic
from holitom.runtime.call import Call, Calls, Kwargs
from holitom.runtime.encoded import Assignment, Encoded, assign, report_on
from holitom.runtime.forward import Forward
from holitom.runtime.inner import InnerMerge
from holitom.runtime.plan import Columns, Plan, is_whole, prefill, proceed, whole
from holitom.runtime.prompt import Prompt
from holitom.runtime.report import mark
from holitom.runtime.static import MergedStaticCache, adopt_static


def merge(
    attached: Attached, calls: Calls, call: Call, ids: Tensor, encoded: Encoded, kwargs: Kwargs
) -> Kwargs:
    """Plan a forward that brings videos, and set `call.forward` and `call.report`.

    Args:
        attached: method and model.
        calls: the thread's running calls.
        call: the call that the forward belongs to.
        ids: `[B, L]`: ids of the forward.
        encoded: the call's videos.
        kwargs: arguments of the language model's forward, by name.

    Returns:
        The arguments that change.
    """
    adapter, began = attached.adapter, mark(kwargs["inputs_embeds"].device)
    cache, changed = _cache(attached, kwargs)
    asked = ids if cache is None else calls.question(ids)
    new = encoded.begins(asked, cached=cache is not None)
    encoded.merge(attached.method, adapter)
    columns = _columns(attached, kwargs, cache)
    prompt = Prompt.read(
        columns.mask,
        adapter.placeholders(ids).to(columns.embeds.device),
        None if adapter.keeps_positions else columns.positions,
        columns.seen,
        encoded.asked,
    )
    assignment = assign(prompt.holders, [adapter.slots(video) for video in encoded.videos])
    if new:
        call.report = encoded.report = report_on(encoded, assignment, adapter.frames_per_step)
    changed |= _prefilled(attached, call, encoded, assignment, columns, prompt, cache)
    if new and encoded.report is not None:
        encoded.report.prompt_tokens = (columns.shape[1], changed["inputs_embeds"].shape[1])
        for span in encoded.vision:
            encoded.report.add("vision", *span)
        encoded.report.add("merging", began, mark(columns.embeds.device))
    return changed


def _prefilled(
    attached: Attached,
    call: Call,
    encoded: Encoded,
    assignment: Assignment,
    columns: Columns,
    prompt: Prompt,
    cache: Any,
) -> Kwargs:
    """Plan the prefill, set `call.forward` unless the stock forward runs, return changed arguments."""
    placements = assignment.placements(encoded.sent)
    counts = [-int(asks) for asks in prompt.video_asks]  # the query itself is not merged
    for placement in placements:
        counts[placement.row] += len(placement.slot)
    inner = attached.merges_inside(counts)
    if columns.record is None and not inner and is_whole(placements):
        # Every token stays: the stock forward runs on the method's features.
        return {"inputs_embeds": whole(columns, placements)}
    plan = prefill(
        columns,
        prompt,
        placements,
        keeps_positions=attached.adapter.keeps_positions,
        own_positions=attached.own_positions,
        inner=tuple(attached.stages) if inner else (),
    )
    merges = _inner(attached, encoded, assignment, plan, call) if inner else None
    call.forward, changed = _forward(attached, plan, cache, merges)
    return changed


def go_on(attached: Attached, call: Call, cache: Merged, kwargs: Kwargs) -> Kwargs:
    """Plan a forward without videos over a cache that holds merged tokens, and set `call.forward`.

    Arguments and result are those of `merge`. A step over a static cache needs no plan.
    """
    if isinstance(cache, MergedStaticCache) and kwargs["inputs_embeds"].shape[1] == 1:
        return cache.step(attached.adapter, kwargs)
    columns = _columns(attached, kwargs, cache)
    plan = proceed(columns, keeps_positions=attached.adapter.keeps_positions)
    call.forward, changed = _forward(attached, plan, cache, None)
    return changed


def _columns(attached: Attached, kwargs: Kwargs, cache: Any) -> Columns:
    """Read the caller's columns from the language model's arguments."""
    embeds: Tensor = kwargs["inputs_embeds"]
    mask = kwargs.get("attention_mask")
    refusals.check_mask(mask)
    record: CacheRecord | None = cache.record if isinstance(cache, Merged) else None
    return Columns(
        embeds=embeds,
        mask=mask,
        positions=kwargs.get("position_ids"),
        seen=0 if cache is None else int(cache.get_seq_length()),
        record=record,
        streams=attached.adapter.streamed(kwargs, (embeds.shape[0], embeds.shape[1])),
    )


def _inner(
    attached: Attached, encoded: Encoded, assignment: Assignment, plan: Plan, call: Call
) -> InnerMerge:
    """Make the inner stages of the forward of `plan`."""
    rows, device = plan.embeds.shape[0], plan.embeds.device
    numbers = assignment.numbers(encoded.sent, rows, device)
    videos = assignment.videos(encoded.sent, rows, device)
    return InnerMerge(
        stages=attached.stages,
        ranked_by=attached.ranked_by,
        query_offset=plan.query_offset,
        questions=plan.questions,
        numbers=[own[:-1] if asks else own for own, asks in zip(numbers, plan.video_asks, strict=True)],
        videos=[own[:-1] if asks else own for own, asks in zip(videos, plan.video_asks, strict=True)],
        guarded=assignment.guarded(encoded.sent, rows),
        report=call.report,
    )


def _forward(attached: Attached, plan: Plan, cache: Any, inner: InnerMerge | None) -> tuple[Forward, Kwargs]:
    """Make the forward of `plan`, and the changed arguments of the language model."""
    adapter, layout = attached.adapter, plan.layout
    if layout is not None:
        refusals.check_no_gap(adapter, layout, 0 if cache is None else int(cache.get_seq_length()))
    changed: Kwargs = {
        "inputs_embeds": plan.embeds,
        "attention_mask": plan.mask,
        "position_ids": plan.positions,
    }
    if plan.gaps and cache is None and plan.mask is None:
        # Without a mask, transformers would take gaps for packed sequences.
        changed["attention_mask"] = _all_tokens(plan)
    first = attached.first_stage if inner is not None else len(plan.streams)
    if plan.streams and layout is not None:
        stands = _all_tokens(plan) if layout.mask is None else layout.mask
        changed |= adapter.stream_arguments(list(plan.streams[:first]), stands)
    forward = Forward(
        adapter=adapter,
        plan=plan,
        cache=None if cache is None else _adopted(cache),
        inner=inner,
        streams={layer: plan.streams[layer] for layer in range(first, len(plan.streams))},
    )
    forward.allot(0)
    return forward, changed


def _adopted(cache: Any) -> Merged:
    """Turn `cache` into one that can hold merged tokens, unless it is one."""
    if isinstance(cache, Merged):
        return cache
    return adopt_static(cache) if isinstance(cache, StaticCache) else adopt_dynamic(cache)


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
