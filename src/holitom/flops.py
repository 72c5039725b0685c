"""What a prompt with a video costs, by method and budget: the paper's formula, true counts, KV cache.

Lengths follow from shapes alone, by the methods' own `merged_count` and inner stages. HoliTom's count
depends on the video; it is taken to send `frames * ceil(tokens * r)`, what it sends of a video without
static tokens and what the paper's table was computed with. Counts are in single operations, a multiply-add
being two; the paper's formula counts as the paper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from holitom.contract import InnerStage
from holitom.errors import HolitomError, ModelError, SettingsError
from holitom.methods import HoliTom, Method
from holitom.methods.base import require
from holitom.methods.naming import NamedMethod, named_methods
from holitom.models import adapter_for, config_of
from holitom.models.published import PUBLISHED, published_config
from holitom.runtime.count import Level, PrefillCount, VisionCount, count_prefill, count_vision

# The rows of the paper's table that differ; PyramidDrop as in its own paper: half at each quarter.
USUAL = "fastv,pdrop[retain_ratio=0.46875],holitom-outer,holitom"
MOST_FRAMES = 8_192  # an hour at two frames a second


class Decoder(NamedTuple):
    """A language model as the paper's formula knows it."""

    layers: int
    width: int
    ffn: int


@dataclass(frozen=True)
class Plan:
    """One row: how many visual tokens go into the language model, and where inside it they get fewer.

    Attributes:
        label: method and budget.
        retain_ratio: the budget.
        sent: visual tokens, without separators.
        inner: reductions by rising layer.
        needs_importance: whether the vision tower's last attention is read besides.
        needs_keys: whether its keys are.
    """

    label: str
    retain_ratio: float
    sent: int
    inner: tuple[InnerStage, ...] = ()
    needs_importance: bool = False
    needs_keys: bool = False

    def levels(self, separators: int = 0) -> list[Level]:
        """Visual tokens by layer, `separators` (newlines) among them, as inner stages count them."""
        levels = [Level(0, self.sent + separators)]
        for stage in self.inner:
            levels.append(Level(stage.layer, stage.keep(levels[-1].tokens)))
        return levels


@dataclass(frozen=True)
class Cost:
    """One row of the table.

    Attributes:
        plan: what it is about.
        paper: prefill by the paper's formula.
        prefill: counted, with text and separators.
    """

    plan: Plan
    paper: int
    prefill: PrefillCount


@dataclass(frozen=True)
class Costs:
    """A model's costs: full tokens first, then every method at every budget.

    Attributes:
        model: its name.
        text_tokens: tokens of the prompt beside the video's.
        dtype: of the KV cache.
        vision: what all rows encode.
        rows: full tokens first.
        refused: methods that cannot meet a budget, or whose count shapes do not tell, with the reason.
    """

    model: str
    text_tokens: int
    dtype: str
    vision: VisionCount
    rows: tuple[Cost, ...]
    refused: dict[str, str]

    def vision_operations(self, row: Cost) -> int:
        """Of vision tower and projector, and of reading importance or keys where the row's method does."""
        encoding = sum(self.vision.operations.values())
        importance = self.vision.importance if row.plan.needs_importance else 0
        return encoding + importance + (self.vision.keys if row.plan.needs_keys else 0)

    def to_dict(self) -> dict[str, Any]:
        """Everything that `holitom flops --json` prints; operations, tokens and bytes are whole numbers."""
        return {
            "model": self.model,
            "frames": self.vision.frames,
            "tokens_per_frame": self.vision.tokens,
            "separators": self.vision.separators,
            "text_tokens": self.text_tokens,
            "kv_dtype": self.dtype,
            "encoding_operations": self.vision.operations,
            "importance_operations": self.vision.importance,
            "keys_operations": self.vision.keys,
            "rows": [
                {
                    "method": row.plan.label,
                    "retain_ratio": row.plan.retain_ratio,
                    "visual_tokens": [level._asdict() for level in row.plan.levels()],
                    "paper_operations": row.paper,
                    "vision_operations": self.vision_operations(row),
                    "prefill_operations": row.prefill.operations,
                    "kv_bytes": row.prefill.cache_bytes,
                    "kv_groups": [asdict(group) for group in row.prefill.cache],
                }
                for row in self.rows
            ],
            "refused": self.refused,
        }


def paper_layer(tokens: int, width: int, ffn: int) -> int:
    """The paper's prefill cost of `n` visual tokens in one layer: `4 n d^2 + 2 n^2 d + 2 n d m`.

    HoliTom (arXiv 2505.21334), as FastV (2403.06764) before it. It counts multiply-adds of four square
    projections, of attention, and of a feed-forward network with two matrices. Qwen2 has narrower keys
    and values and three matrices there, so true counts differ by more than a factor of two.
    """
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * ffn


def paper_prefill(levels: Sequence[Level], decoder: Decoder) -> int:
    """The paper's cost of all layers; `levels` without text and separators."""
    ends = [*(level.start for level in levels[1:]), decoder.layers]
    return sum(
        (end - level.start) * paper_layer(level.tokens, decoder.width, decoder.ffn)
        for level, end in zip(levels, ends, strict=True)
    )


def plans(
    methods: Sequence[NamedMethod], ratios: Sequence[float], frames: int, tokens: int, layers: int
) -> tuple[list[Plan], dict[str, str]]:
    """Full tokens, then `methods` at every ratio, on `frames` of `tokens` each and a decoder of `layers`.

    Returns:
        The plans; and by label what cannot be planned, with the reason.

    Raises:
        SettingsError: a ratio is not in (0, 1].
    """
    found, refused = [Plan("full tokens", 1.0, frames * tokens)], {}
    for ratio in ratios:
        Method(retain_ratio=ratio)
    for named in methods:
        own = named.retain_ratio is not None
        for ratio in ratios[:1] if own else ratios:
            label = named.label if own else f"{named.label} {100 * ratio:g}%"
            try:
                found.append(_plan(label, named.at(ratio), frames, tokens, layers))
            except SettingsError as error:
                refused[label] = str(error)
    return found, refused


def _plan(label: str, method: Method, frames: int, tokens: int, layers: int) -> Plan:
    varies = isinstance(method, HoliTom) and method.budget == "ratio"
    return Plan(
        label=label,
        retain_ratio=method.retain_ratio,
        sent=frames * ceil(tokens * method.retain_ratio) if varies else method.merged_count(frames, tokens),
        inner=method.inner(layers),
        needs_importance=method.needs_importance,
        needs_keys=method.needs_keys,
    )


def _feed_forward(text: Any) -> int:
    """Width of the feed-forward that each token goes through: in a mixture, of all its experts together."""
    if not getattr(text, "num_experts_per_tok", None):
        return int(text.intermediate_size)
    experts = text.num_experts_per_tok + (getattr(text, "n_shared_experts", None) or 0)
    return int(
        experts * text.moe_intermediate_size + (getattr(text, "shared_expert_intermediate_size", None) or 0)
    )


def skeleton(name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model's real class on the meta device: all of its shapes, none of its weights.

    Args:
        name: a name in `models.published.PUBLISHED`, a checkpoint's folder, a config's JSON file, or an id
            on the Hugging Face Hub.
        dtype: of its parameters, and so of its KV cache.

    Raises:
        ModelError: there is no such config, or no video model can be made of it.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForImageTextToText

    if (
        name not in PUBLISHED
        and not Path(name).exists()
        and ("/" not in name or name.startswith((".", "/", "~")))
    ):
        raise ModelError(f"model {name}: no such folder or config; published shapes: {', '.join(PUBLISHED)}")
    try:
        config = published_config(name) if name in PUBLISHED else config_of(name)
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(
                config, dtype=dtype, attn_implementation="sdpa"
            )
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError),
        StrictDataclassError,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model {name}: {lines[0]}") from error
    return model.eval()


def costs(
    name: str,
    frames: int = 32,
    ratios: Sequence[float] = (0.25, 0.2, 0.15, 0.1),
    methods: str = USUAL,
    text_tokens: int = 32,
    dtype: str = "bfloat16",
    size: tuple[int, int] = (640, 360),
) -> Costs:
    """Count one prompt with one video for every method and ratio.

    Args:
        name: see `skeleton`.
        frames: of the video.
        ratios: shares of the visual tokens to keep.
        methods: as `named_methods` reads them.
        text_tokens: tokens of the prompt beside the video's, at least the one that is asked for the answer.
        dtype: of the KV cache: float32, bfloat16 or float16.
        size: width and height of a frame, before the model's own processor resizes it.

    LLaVA-Video's newlines are counted as for full tokens; of grid rows that merge away they are not sent.

    Raises:
        SettingsError: a number is out of its range, or a name unknown.
        ModelError: there is no such model.
        UnsupportedModelError: no adapter knows it.
    """
    require("frames", frames, f"in 1..{MOST_FRAMES}", lambda count: 1 <= count <= MOST_FRAMES, whole=True)
    require("text_tokens", text_tokens, "in 1..1000000", lambda n: 1 <= n <= 10**6, whole=True)
    for side in size:
        require("size", side, "two of 1..8192", lambda pixels: 1 <= pixels <= 8192, whole=True)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise SettingsError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    named = named_methods(methods)
    plans(named, ratios, frames, tokens=1, layers=28)  # bad settings before big models

    model = skeleton(name, getattr(torch, dtype))
    adapter = adapter_for(model)
    text: Any = model.config.get_text_config()
    if dtype == "float32" and getattr(text, "num_experts_per_tok", None):
        raise SettingsError("a mixture of experts is counted in bfloat16 or float16, not in float32")
    decoder = Decoder(text.num_hidden_layers, text.hidden_size, _feed_forward(text))
    rows = []
    try:
        vision = count_vision(adapter, frames, *size)
        planned, refused = plans(named, ratios, vision.frames, vision.tokens, decoder.layers)
        for plan in planned:
            try:
                for stage in plan.inner:
                    adapter.ranked_by(stage)
            except SettingsError as error:
                refused[plan.label] = str(error)
                continue
            counted = [Level(start, n + text_tokens) for start, n in plan.levels(vision.separators)]
            prefill = count_prefill(model, adapter, counted)
            rows.append(Cost(plan, paper_prefill(plan.levels(), decoder), prefill))
    except RuntimeError as error:
        if isinstance(error, HolitomError):
            raise
        raise ModelError(f"model {name}: its shapes do not fit together: {error}") from error
    return Costs(name, text_tokens, dtype, vision, tuple(rows), refused)
