"""Name and check the usages that are refused with a method attached, each a row of docs/limits.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from holitom.errors import UnsupportedUsageError
from holitom.models.base import Adapter
from holitom.models.interface import interface_error
from holitom.runtime.layout import Layout

Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A usage that is refused while a method is attached.

    Attributes:
        what: the usage.
        why: the reason.
        instead: what works.
    """

    what: str
    why: str
    instead: str

    def error(self, found: str = "") -> UnsupportedUsageError:
        """Make the error, which names what was `found`."""
        what = f"{self.what} ({found})" if found else self.what
        return UnsupportedUsageError(f"holitom does not serve {what}: {self.why}; {self.instead}")


COMPILED = Refusal(
    "a model, or a part of it, that was compiled (torch.compile) before the method was attached",
    "its graph contains none of the hooks that merge",
    "attach first and compile after, or do not compile",
)
FEATURES = Refusal(
    "video features that were encoded before this method was attached, or changed since they were encoded",
    "merging needs what the vision tower returned, with its importance and keys",
    "pass the pixels, or encode again",
)
CACHE = Refusal(
    "a cache that is quantised, or has sliding windows",
    "a quantised layer cannot be read, and a window is a number of columns, of which merging removes some",
    "use a DynamicCache (the default) or a StaticCache",
)
FLASH = Refusal(
    "a static cache under flash attention",
    "layers that hold different numbers of tokens need masks, which flash attention does not take",
    'use attn_implementation="sdpa", or the default cache',
)
PAGED = Refusal(
    "continuous batching (paged attention)",
    "its cache holds the same columns in every layer",
    "use generate, or the plugin for vLLM",
)
SHORT = Refusal(
    "a static cache with fewer columns than the unmerged prompt",
    "it counts the columns that the caller sends",
    "make it for the unmerged prompt and its answer (max_cache_len)",
)
SPOILT = Refusal(
    "a static cache of merged tokens, or one with recurrent states, whose latest forward has ended early, by "
    "an error or Ctrl-C",
    "some of its layers may have taken in what others have not",
    "start from a new cache, or reset() this one",
)
MASK = Refusal(
    "an attention mask that is not 2D, or has other rows or columns than the prompt",
    "merging removes the columns of the unmerged prompt by it",
    "pass a 2D attention_mask, [rows, columns], with the columns of the cache before those of the prompt, or "
    "none",
)
MASKED = Refusal(
    "an attention mask that is 0 at video placeholders",
    "one merged token would stand for hidden and visible ones",
    "leave the video out of the prompt, or pass 1 at its placeholders",
)
POSITIONS = Refusal(
    "position_ids that are not consecutive in each row",
    "on one position axis the remaining tokens are numbered anew, which would close the gaps",
    "leave position_ids out, or pass consecutive ones where a mask has zeros between tokens",
)
GAP = Refusal(
    "rows of several lengths that go on over a cache with recurrent states",
    "a recurrent state takes in padding as tokens",
    "go on with one row at a time, or with rows of one length",
)
CHECKPOINTING = Refusal(
    "gradient checkpointing with merging inside the language model",
    "the backward pass would recompute a layer without its merge",
    "turn one of the two off",
)
LABELS = Refusal(
    "a label that follows a video token which was merged away",
    "no token remains that predicts it",
    "set labels to -100 at every video placeholder and at the token right after them",
)
ROUTER_LOGITS = Refusal(
    "output_router_logits with a padded batch of videos, where a model's mask is for more than its loss",
    "the load balancing loss would read a mask whose columns are not the merged tokens",
    "pass rows one by one, or output_router_logits=False",
)
SPEECH = Refusal(
    "speech about a merged video (a talker asks the thinker's generate for output_hidden_states)",
    "the talker reads hidden states by the columns of the unmerged prompt",
    'pass generation_mode="text" to generate of the whole model, or call generate of its thinker',
)
CROP = Refusal(
    "cropping a cache to before the end of a merged video, or of the question that ranked its tokens inside "
    "the language model",
    "the remaining tokens of the video depend on the cropped ones",
    "crop what came after, or start from a new cache",
)
DETACHED = Refusal(
    "going on over a cache of merged tokens on a model that has no method attached",
    "the stock model makes masks and position ids for the unmerged length",
    "attach a method again (any will do), or start from a new cache",
)
BY_NAME = Refusal(
    "a forward of the model inside that is called by its name (model.model.forward(...))",
    "it passes by the hooks that merge",
    "call the module itself, model.model(...)",
)
INSIDE = Refusal(
    "detaching a method inside a forward of its model",
    "the rest of the forward would run without it",
    "detach when the forward has ended",
)
MEANWHILE = Refusal(
    "a generate in another thread whose method was detached before it ended",
    "its later steps ran without the method",
    "detach when generate has returned",
)
TWICE = Refusal(
    "a second method where one is attached to this model already",
    "both would plan the same forward",
    "detach the first one",
)
REFUSALS = (
    COMPILED, FEATURES, CACHE, FLASH, PAGED, SHORT, SPOILT, MASK, MASKED, POSITIONS, GAP, CHECKPOINTING,
    LABELS, ROUTER_LOGITS, SPEECH, CROP, DETACHED, BY_NAME, INSIDE, MEANWHILE, TWICE,
)  # fmt: skip


def check_not_compiled(model: nn.Module) -> None:
    """Refuse a compiled model: its graph would run without the hooks."""
    if any(map(_compiled, model.modules())):
        raise COMPILED.error()


def _compiled(module: nn.Module) -> bool:
    """Whether this module was compiled: wrapped, in place, or by its `forward`."""
    around = type(module).__name__ == "OptimizedModule"
    return around or bool(module._compiled_call_impl) or hasattr(module.forward, "_torchdynamo_orig_callable")


def check_owner(adapter: Adapter, ids: Tensor, foreign: bool) -> None:
    """Refuse video features of another run, which lack what this method reads from the tower.

    Args:
        adapter: the model's adapter.
        ids: `[B, L]`: ids of the prompt.
        foreign: whether the features are another run's, or changed.
    """
    if foreign and bool(adapter.placeholders(ids).any()):
        raise FEATURES.error()


def check_encoder(adapter: Adapter, ids: Tensor | None) -> None:
    """Refuse a model that was given videos and did not call its encoder.

    Args:
        adapter: the model's adapter.
        ids: `[B, L]`: ids of the prompt.
    """
    if ids is not None and bool(adapter.placeholders(ids).any()):
        raise interface_error(
            f"{type(adapter.trunk).__name__} has filled in its videos without what {adapter.encoder} returns"
        )


def check_called(adapter: Adapter, arguments: Kwargs) -> None:
    """Refuse videos in a forward of the trunk that no hook has seen.

    Args:
        adapter: the model's adapter.
        arguments: arguments of that forward, by name; empty where there is none.
    """
    ids = arguments.get("input_ids")
    if adapter.brings(arguments) and (ids is None or bool(adapter.placeholders(ids).any())):
        raise BY_NAME.error()


def check_no_gap(adapter: Adapter, layout: Layout, seen: int) -> None:
    """Refuse padding between cached and new columns where a recurrent state would take it in."""
    if layout.padded and seen and not all(map(adapter.attends, range(len(adapter.layers)))):
        raise GAP.error()


def check_cache(cache: Any, language_model: Any) -> None:
    """Refuse caches whose layers cannot hold different numbers of tokens, or cannot be read."""
    known = type(cache) in (DynamicCache, StaticCache)
    windows = known and any(cache.is_sliding)
    if not known or windows:
        raise CACHE.error(f"{type(cache).__name__}{' with sliding windows' * windows}")
    if type(cache) is StaticCache and "flash" in str(language_model.config._attn_implementation):
        raise FLASH.error()


def check_mask(mask: Any, rows: int, columns: int, seen: int) -> None:
    """Refuse a mask that is not 2D, `[rows, seen + columns]` or `[rows, columns]`, as packing rows needs.

    Args:
        mask: the caller's mask, or None.
        rows: rows of the batch.
        columns: columns of this forward.
        seen: the caller's columns in the cache.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise MASK.error(f"{mask.dim()}D" if isinstance(mask, Tensor) else type(mask).__name__)
    if mask.shape[0] != rows or mask.shape[1] not in (columns, seen + columns):
        raise MASK.error(f"{list(mask.shape)} for {[rows, seen + columns]}")


def check_hidden(holders: Tensor, real: Tensor) -> None:
    """Refuse a mask that hides video placeholders.

    Args:
        holders: `[B, L]` bool on the host: video placeholders.
        real: `[B, L]` bool on the host: columns that the mask shows.
    """
    if bool((holders & ~real).any()):
        raise MASKED.error()


def check_attention(language_model: Any) -> None:
    """Refuse paged attention, whose cache holds the same tokens in every layer."""
    if str(language_model.config._attn_implementation).startswith("paged"):
        raise PAGED.error()


def check_speech(adapter: Adapter, arguments: Kwargs) -> None:
    """Refuse a forward inside `generate` whose hidden states a talker would read.

    Args:
        adapter: the model's adapter.
        arguments: arguments of the model's forward, by name.
    """
    if adapter.speaks and arguments.get("output_hidden_states"):
        raise SPEECH.error()


def check_labels(adapter: Adapter, arguments: Kwargs, ids: Tensor, layout: Layout) -> None:
    """Refuse labels that a merged-away token would have to predict.

    Args:
        adapter: the model's adapter.
        arguments: arguments of the model's forward, by name, with `labels` or with `shift_labels`, which has
            the label of column `c + 1` at `c`.
        ids: `[B, L]`: ids of the prompt.
        layout: layout of the tokens after the last layer.
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
        raise LABELS.error()
