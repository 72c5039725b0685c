"""Hooks on one model: they see videos on their way into the language model and merge them there.

How a forward goes while a method is attached:

1. `get_video_features` runs as ever; its result carries along what merging needs (`Encoded`).
2. When the language model is about to run, the videos that this forward brings are merged, the batch is
packed
   without the tokens that merged away (`Layout`), and positions and mask are made anew for it (`Forward`).
3. Where the method merges inside the language model, one query row of attention is read in the layer before,
   and the batch is packed again on the way into the layer.
4. On the way out hidden states return to the caller's columns; the cache (`MergedCache`) remembers what it
holds.

A forward without new videos takes its mask and positions from what the cache remembers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from holitom.errors import SettingsError, UnsupportedUsageError
from holitom.models import adapter_for
from holitom.models.base import require_modules
from holitom.runtime.cache import CacheRecord, MergedCache, layer_bytes, unmerged_bytes
from holitom.runtime.encoded import Encoded, assign, report_on
from holitom.runtime.forward import Forward, Kwargs, by_name
from holitom.runtime.layout import Layout, merged_layout, placed, plain_layout
from holitom.runtime.positions import (
    after,
    callers_positions,
    kept_positions,
    next_padded_positions,
    next_positions,
    unmerged_positions,
)
from holitom.runtime.prompt import Prompt, last_real
from holitom.runtime.report import Mark, Report, mark

if TYPE_CHECKING:
    from holitom.contract import InnerStage, Merges


@dataclass
class Step:
    """One forward of the trunk: its arguments by name, and the videos that it brings."""

    given: Kwargs
    encoded: Encoded | None

    @property
    def input_ids(self) -> Tensor:
        ids: Tensor = self.given["input_ids"]
        return ids


class Run:
    """What a run has to say: `last` is the report of the latest forward or `generate` that carried videos."""

    last: Report | None = None


class Handle(Run):
    """A method on a model, until `detach`."""

    def __init__(self, method: Merges, model: nn.Module) -> None:
        self._adapter = adapter_for(model)
        model = self._adapter.model
        if any(_compiled(module) for module in model.modules()):
            raise UnsupportedUsageError(
                "the model, or a part of it, was compiled (torch.compile) before the method was attached, "
                "and its graph would run past what merges; attach first and compile after, or do not compile"
            )
        self._method = method
        self._adapter.check()
        layers = len(self._adapter.layers)
        stages = {stage.layer: stage for stage in method.inner(layers)}
        for layer, stage in stages.items():
            if not 1 <= layer < layers:
                raise SettingsError(f"inner merging at layer {layer}: this model takes 1..{layers - 1}")
            if stage.keep(1) != 1:
                raise SettingsError(
                    f"inner merging at layer {layer} keeps none of a few visual tokens: its keep(1) must be 1"
                )
        self._stages: dict[int, InnerStage] = dict(sorted(stages.items()))
        self._ranked_by = {layer: self._adapter.ranked_by(stage) for layer, stage in self._stages.items()}
        for layer in self._ranked_by.values():
            ranks: Any = self._adapter.layers[layer]
            require_modules(ranks.self_attn, ("q_proj", "k_proj"), f"layer {layer} of the language model")
        self._first_stage = min(stages, default=layers)
        self._step: Step | None = None
        self._forward: Forward | None = None
        self._labels: Tensor | None = None
        self._encoding = False
        self._importance: Tensor | None = None
        self._keys: Tensor | None = None
        self._last_cache: weakref.ref[Any] | None = None
        self._prefilled: Mark = 0.0
        self._hooks: list[Any] = []
        self._wrapped: list[tuple[nn.Module, str]] = []
        self._install(model)

    def detach(self) -> None:
        """Take every hook off the model. It may be called again, and does nothing then."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for owner, name in self._wrapped:
            if getattr(owner.__dict__.get(name), "_handle", None) is self:
                delattr(owner, name)

    # The hooks, in the order in which a forward meets them.

    def _install(self, model: nn.Module) -> None:
        adapter, keep = self._adapter, self._hooks.append
        trunk: Any = adapter.trunk
        if hasattr(trunk.__dict__.get(adapter.encoder), "_handle"):
            raise UnsupportedUsageError("a method is attached to this model already; detach it first")
        self._wrap(trunk, adapter.encoder, self._encode)
        if hasattr(model, "generate"):
            self._wrap(model, "generate", self._generate)
        keep(model.register_forward_pre_hook(self._enter_model, with_kwargs=True))
        keep(model.register_forward_hook(self._leave_model, always_call=True))
        keep(trunk.register_forward_pre_hook(self._enter_trunk, with_kwargs=True))
        keep(trunk.register_forward_hook(self._leave_trunk, always_call=True))
        language = adapter.language_model
        keep(language.register_forward_pre_hook(self._enter_language, with_kwargs=True))
        keep(language.register_forward_hook(self._leave_language, with_kwargs=True, always_call=True))
        if self._method.needs_importance or self._method.needs_keys:
            keep(adapter.vision_attention.register_forward_pre_hook(self._see_vision, with_kwargs=True))
        for index, layer in enumerate(adapter.layers):
            keep(layer.register_forward_pre_hook(self._layer_hook(index), with_kwargs=True))
        for index in {ranks for layer, ranks in self._ranked_by.items() if ranks != layer}:
            attention: Any = adapter.layers[index].self_attn
            keep(attention.register_forward_hook(self._attention_hook(index), with_kwargs=True))
        for index in range(self._first_stage, adapter.streams):
            keep(adapter.layers[index].register_forward_hook(self._stream_hook(index)))

    def _wrap(self, owner: nn.Module, name: str, instead: Callable[..., Any]) -> None:
        """Call `instead(own, args, kwargs)` in the place of `own`, the method `name` of `owner`."""
        own = getattr(owner, name)

        @wraps(own)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return instead(own, args, kwargs)

        wrapper._handle = self  # type: ignore[attr-defined]
        setattr(owner, name, wrapper)
        self._wrapped.append((owner, name))

    def _generate(self, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """Look over a prompt before `generate` encodes its videos, which it does before any forward."""
        ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        if ids is not None and kwargs.get(self._adapter.pixels_name) is not None:
            cache = kwargs.get("past_key_values")
            seen = 0 if cache is None else int(cache.get_seq_length())
            self._adapter.check_prompt(ids[:, seen:], kwargs)
        return generate(*args, **kwargs)

    def _enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        self._labels = kwargs.get("labels")

    def _leave_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._labels = None

    def _enter_trunk(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        given = by_name(module.forward, args, kwargs)
        if given.get("input_ids") is None:
            raise UnsupportedUsageError(
                "inputs_embeds without input_ids: a video is found by its placeholder ids; pass input_ids"
            )
        output = (given.get("mm_encoder_outputs") or {}).get(self._adapter.modality)
        encoded = None if output is None else getattr(output, "holitom", None)
        if output is not None and (encoded is None or encoded.owner is not self):
            raise UnsupportedUsageError(
                "these video features were encoded before this method was attached, or cut by "
                f"prefill_chunk_size; pass {self._adapter.pixels_name}, without chunked prefill"
            )
        if given.get(self._adapter.pixels_name) is not None:
            self._adapter.check_prompt(given["input_ids"], given)
        self._step = Step(given, encoded)

    def _leave_trunk(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._step = None

    def _encode(self, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> Any:
        """The model's own encoding of videos, whose result carries what merging needs."""
        given = by_name(encode, args, kwargs)
        device = given[self._adapter.pixels_name].device
        began = mark(device)
        self._encoding = True
        try:
            output = encode(*args, **kwargs)
            importance, keys = self._importance, self._keys
        finally:
            self._encoding, self._importance, self._keys = False, None, None
        if isinstance(output, tuple):  # return_dict=False: somebody looks at features, no forward does
            return output
        videos = self._adapter.videos(output, given, importance, keys)
        output.holitom = Encoded(self, videos, (began, mark(device)))
        if self._step is not None and self._step.encoded is None:
            self._step.encoded = output.holitom
        return output

    def _see_vision(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        if self._encoding:
            given = by_name(module.forward, args, kwargs)
            with torch.no_grad():
                if self._method.needs_importance:
                    self._importance = self._adapter.importance(given)
                if self._method.needs_keys:
                    self._keys = self._adapter.keys(given)

    def _enter_language(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs] | None:
        self._forward = None
        cache = kwargs.get("past_key_values")
        if self._step is not None and self._brings_videos(self._step):
            kwargs = by_name(module.forward, args, kwargs)
            forward, changed = self._merge(self._step, kwargs)
        elif isinstance(cache, MergedCache) and cache.record is not None:
            kwargs = by_name(module.forward, args, kwargs)
            forward, changed = self._continue(cache, cache.record, kwargs)
        else:
            self._check_nothing_missing(cache)
            return None
        self._forward = forward
        if forward.cache is not None:
            forward.cache.open = True
        forward.began = mark(kwargs["inputs_embeds"].device)
        return (), {**kwargs, **changed}

    def _leave_language(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs, output: Any) -> Any:
        forward, self._forward = self._forward, None
        if forward is not None and forward.cache is not None:
            forward.cache.open = False
        if output is None:  # the forward failed
            return None
        cache = kwargs.get("past_key_values")
        if forward is None:
            self._account(cache, kwargs)
            return None
        if forward.layout is not None:
            self._check_labels(forward.layout)
            hidden = forward.restore(output[0], kwargs.get("logits_to_keep"))
            if isinstance(output, tuple):
                output = (hidden, *output[1:])
            else:
                output.last_hidden_state = hidden
        forward.remember()
        now = mark(kwargs["inputs_embeds"].device)
        if forward.report is not None:
            self._last_cache, self._prefilled = None if cache is None else weakref.ref(cache), now
            forward.report.add("prefill", forward.began, now)
            for span in forward.inner_spans:
                forward.report.add("inner", *span)
        self._account(cache, kwargs)
        return output

    def _layer_hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Kwargs], Any]:
        def enter_layer(module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
            forward = self._forward
            if forward is None or not forward.changes(index):
                return None
            if index in forward.starts[1:]:
                kwargs = by_name(module.forward, args, kwargs)
                args = (forward.enter_level(index, kwargs),)
                kwargs.pop("hidden_states")
            return args, {**kwargs, **forward.given_to(index)}

        return enter_layer

    def _attention_hook(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], Kwargs, Any], None]:
        def leave_attention(module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs, output: Any) -> None:
            if self._forward is not None and self._forward.stages:
                with torch.no_grad():
                    self._forward.leave_attention(layer, module, by_name(module.forward, args, kwargs))

        return leave_attention

    def _stream_hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def leave_layer(module: nn.Module, args: tuple[Any, ...], hidden: Tensor) -> Tensor:
            return hidden if self._forward is None else self._forward.leave_layer(index, hidden)

        return leave_layer

    # The two kinds of forward that need care.

    def _brings_videos(self, step: Step) -> bool:
        """Whether what this forward has encoded holds a video: where videos come as images, it may not."""
        if step.encoded is None:
            return False
        step.encoded.locate(self._adapter, step.given)
        return bool(step.encoded.videos)

    def _merge(self, step: Step, kwargs: Kwargs) -> tuple[Forward, Kwargs]:
        """A forward that brings videos, and the arguments of the language model that it changes."""
        input_ids, encoded = step.input_ids, step.encoded
        assert encoded is not None
        embeds: Tensor = kwargs["inputs_embeds"]
        rows, columns = embeds.shape[:2]
        device = embeds.device
        began = mark(device)
        cache, changed = self._cache(kwargs)
        record = cache.record if isinstance(cache, MergedCache) else None
        seen = 0 if cache is None else int(cache.get_seq_length())
        new = encoded.begins(input_ids, cached=cache is not None)
        encoded.merge(self._method, self._adapter)

        mask = _mask(kwargs)
        holders = self._adapter.placeholders(input_ids).to(device)
        keeps = self._adapter.keeps_positions
        given = None if keeps else kwargs.get("position_ids")
        prompt = Prompt.read(mask, holders, given, seen, encoded.asked)
        assignment = assign(prompt.holders, [self._adapter.slots(video) for video in encoded.videos])
        placements = assignment.placements(encoded.sent)
        if new:
            self.last = encoded.report = report_on(encoded, assignment)

        counts = [-int(asks) for asks in prompt.video_asks]  # who asks does not compete
        for placement in placements:
            counts[placement.row] += len(placement.slot)
        inner = self._merges_inside(counts)
        if record is None and not inner and all(placement.is_whole for placement in placements):
            # Nothing merges away: the stock forward, with the method's features in their places.
            changed["inputs_embeds"] = placed(embeds, placements)
            unused = torch.zeros(rows, dtype=torch.int64, device=device)
            forward = Forward(self._adapter, None, columns, seen, unused, (0,), [None])
        else:
            streams = self._adapter.streamed(kwargs, (rows, columns))
            layout, wide = merged_layout(torch.cat([embeds, *streams], dim=-1), prompt.text, placements)
            ragged, *streams = torch.split(wide, embeds.shape[-1], dim=-1)
            if keeps:
                given = callers_positions(kwargs, seen)
                positions, numbered = kept_positions(given, prompt, layout, record)
            else:
                base = record.position if record is not None else prompt.first_positions(seen).to(device)
                positions, numbered = layout.numbered(base), None
            following = after(positions)
            own = self._method.positions == "own" and not keeps
            if own:
                positions, following = unmerged_positions(base, prompt, layout)
            forward = self._packed(cache, record, layout, following, mask, columns, inner)
            forward.seen, forward.numbered = seen, numbered
            forward.last_real = prompt.last_real
            forward.tail = prompt.text_tail
            forward.query = columns - encoded.asked
            if inner:
                forward.stages, forward.ranked_by = self._stages, self._ranked_by
                forward.numbers = assignment.numbers(encoded.sent, rows, device)
                forward.spare([row for row, asks in enumerate(prompt.video_asks) if asks])
            changed |= {
                "inputs_embeds": layout.pad(ragged),
                "attention_mask": forward.masks[0],
                "position_ids": positions,
            }
            if own:
                changed |= forward.leave_gaps()
            if streams:
                first = self._first_stage if inner else len(streams)
                stands = layout.mask
                if stands is None:
                    stands = torch.ones(rows, layout.width, dtype=torch.bool, device=device)
                changed |= self._adapter.stream_arguments(streams[:first], stands)
                forward.streams = {layer: streams[layer] for layer in range(first, len(streams))}
        if new and encoded.report is not None:
            forward.report = encoded.report
            encoded.report.prompt_tokens = (columns, changed["inputs_embeds"].shape[1])
            encoded.report.add("vision", *encoded.vision)
            encoded.report.add("merging", began, mark(device))
        return forward, changed

    def _continue(self, cache: MergedCache, record: CacheRecord, kwargs: Kwargs) -> tuple[Forward, Kwargs]:
        """A forward without videos on a cache that holds merged ones, and the arguments that it changes."""
        embeds: Tensor = kwargs["inputs_embeds"]
        rows, columns = embeds.shape[:2]
        mask = _mask(kwargs)
        real = None if mask is None else mask[:, -columns:].bool()
        given = callers_positions(kwargs, record.seen) if self._adapter.keeps_positions else None
        numbered = record.numbered
        if real is not None and columns > 1 and not bool(real.all()):
            host = real.cpu()
            layout = plain_layout(host, embeds.device)
            positions = next_padded_positions(record, given, layout)
            forward = self._packed(cache, record, layout, after(positions), mask, columns, inner=False)
            forward.last_real = last_real(host)
            embeds = layout.pad(embeds.flatten(0, 1).index_select(0, layout.home))
            numbered = None if numbered is None else numbered | ~real[:, -1].to(numbered.device)
        else:
            positions = next_positions(record, given, columns)
            forward = Forward(
                self._adapter,
                cache,
                columns,
                record.seen,
                after(positions),
                record.starts,
                list(record.masks),
            )
            for level in range(len(record.starts)):
                forward.extend(level, real if rows > 1 else None, columns)
            forward.tail = record.tail + columns
        forward.seen, forward.numbered = record.seen, numbered
        return forward, {
            "inputs_embeds": embeds,
            "attention_mask": forward.masks[0],
            "position_ids": positions,
        }

    def _packed(
        self,
        cache: Any,
        record: CacheRecord | None,
        layout: Layout,
        position: Tensor,
        mask: Tensor | None,
        columns: int,
        inner: bool,
    ) -> Forward:
        """A forward whose tokens lie as `layout` says, and after which each row goes on at `position`."""
        wanted = (0, *self._stages) if inner else (0,)
        self._check_no_gap(cache, layout)
        if record is not None:
            starts = tuple(sorted({*wanted, *record.starts}))
            masks = [record.mask_of(start) for start in starts]
        else:
            starts = wanted
            past = None if mask is None or mask.shape[1] == columns else mask[:, :-columns].bool()
            masks = [past] * len(starts)
        forward = Forward(
            adapter=self._adapter,
            cache=None if cache is None else MergedCache.adopt(cache),
            columns=columns,
            seen=0,
            position=position,
            starts=starts,
            masks=masks,
            layout=layout,
        )
        forward.extend(0, layout.mask, layout.width)
        return forward

    def _check_no_gap(self, cache: Any, layout: Layout) -> None:
        """A recurrent state would run on over padding between what it has seen and what follows."""
        padded = min(layout.lengths) < layout.width
        if not padded or cache is None or not int(cache.get_seq_length()):
            return
        if not all(map(self._adapter.attends, range(len(self._adapter.layers)))):
            raise UnsupportedUsageError(
                "rows of several lengths cannot go on over a cache that holds recurrent states, which know "
                "no padding; go on with one row at a time, or with rows of one length"
            )

    def _cache(self, kwargs: Kwargs) -> tuple[Any, Kwargs]:
        """The cache of this forward; made here where the language model would make one itself."""
        language: Any = self._adapter.language_model
        if str(language.config._attn_implementation).startswith("paged"):
            raise UnsupportedUsageError(
                "continuous batching (paged attention) is not supported; use generate"
            )
        layer: Any = self._adapter.layers[0]
        if getattr(layer, "gradient_checkpointing", False) and layer.training:
            if self._stages:
                raise UnsupportedUsageError(
                    "gradient checkpointing cannot recompute a merge inside the language model; turn one off"
                )
            return None, {"use_cache": False, "past_key_values": None}
        cache, use_cache = kwargs.get("past_key_values"), kwargs.get("use_cache")
        if cache is None and (language.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=language.config)
        if cache is not None and not isinstance(cache, MergedCache):
            MergedCache.check(cache)
        return cache, {"past_key_values": cache}

    def _merges_inside(self, counts: list[int]) -> bool:
        """Whether inner merging drops any of the rows' `counts` video tokens."""
        for count in counts:
            left = count
            for stage in self._stages.values():
                left = stage.keep(left) if left else 0
            if left != count:
                return True
        return False

    def _check_nothing_missing(self, cache: Any) -> None:
        """A prompt with placeholders but without their videos is no prompt to answer."""
        ids = None if self._step is None else self._step.input_ids
        if ids is None or ids.shape[1] == 1 or (cache is not None and int(cache.get_seq_length())):
            return
        if bool(self._adapter.placeholders(ids).any()):
            raise UnsupportedUsageError(
                "the prompt has video placeholders, but its videos did not come with it; pass "
                f"{self._adapter.pixels_name}, without prefill_chunk_size"
            )

    def _check_labels(self, layout: Layout) -> None:
        """A label that a merged-away token would have to predict has no loss."""
        if self._labels is None or self._step is None:
            return
        labels = self._labels.to(layout.home.device)
        stands = torch.zeros(labels.numel(), dtype=torch.bool, device=labels.device)
        stands = stands.index_fill_(0, layout.home, True).view_as(labels)
        holders = self._adapter.placeholders(self._step.input_ids).to(labels.device)
        if bool(((labels[:, 1:] != -100) & (holders & ~stands)[:, :-1]).any()):
            raise UnsupportedUsageError(
                "a label follows a video token that was merged away; set labels to -100 at every video "
                "placeholder and at the token right after them"
            )

    def _account(self, cache: Any, kwargs: Kwargs) -> None:
        """Count what the latest report still lacks: decoding time, and the cache as it is now."""
        report = self.last
        own = self._last_cache() if self._last_cache is not None else None
        encoded = None if self._step is None else self._step.encoded
        if (
            report is None
            or cache is not own
            or (cache is None and (encoded is None or encoded.report is not report))
        ):
            return
        report.decoded(self._prefilled, mark(kwargs["inputs_embeds"].device))
        if cache is None:
            return
        report.kv_bytes = sum(map(layer_bytes, cache.layers))
        report.kv_bytes_full = unmerged_bytes(cache)


def attach(method: Merges, model: nn.Module) -> Handle:
    """Merge the videos that `model` sees from now on, until the handle's `detach`.

    Raises:
        UnsupportedModelError: no adapter knows the model.
        UnsupportedUsageError: it is compiled, or a method is attached to it already.
        SettingsError: the method merges at a layer that the model does not have.
    """
    return Handle(method, model)


@contextmanager
def attached(method: Merges, model: nn.Module) -> Iterator[Run]:
    """`attach` for the length of a `with` block; an exception detaches too."""
    handle = attach(method, model)
    try:
        yield handle
    finally:
        handle.detach()


def _compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` was put on this module: around it, in place, or around its `forward`."""
    around = type(module).__name__ == "OptimizedModule"
    return around or bool(module._compiled_call_impl) or hasattr(module.forward, "_torchdynamo_orig_callable")


def _mask(kwargs: Kwargs) -> Tensor | None:
    """The caller's 2D mask over past and present columns `[B, seen + columns]`, if there is one."""
    mask = kwargs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
        raise UnsupportedUsageError(
            "attention_mask must be 2D (1 at tokens, 0 at padding) while a method is attached"
        )
    return mask
