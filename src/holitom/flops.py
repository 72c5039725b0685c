"""What a prompt with a video costs, by method and budget: the paper's formula, true counts, KV cache.

Lengths follow from shapes alone. Outer merging sends `frames * ceil(tokens * r)` visual tokens: what
HoliTom sends of a video without static tokens, and what the paper's table was computed with. Counts are
in single operations, a multiply-add being two; the paper's formula counts as the paper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from holitom.ask import ModelError
from holitom.errors import HolitomError, SettingsError
from holitom.methods import HoliTom
from holitom.methods.base import require
from holitom.models import adapter_for
from holitom.models.published import PUBLISHED, published_config
from holitom.runtime.count import Level, PrefillCount, VisionCount, count_prefill, count_vision

METHODS = ("fastv", "pdrop", "holitom-outer", "holitom")
MOST_FRAMES = 8_192  # an hour at two frames a second


class Decoder(NamedTuple):
    """A language model as the paper's formula knows it."""

    layers: int
    width: int
    ffn: int


class Reduction(Protocol):
    """Where visual tokens are dropped or merged inside the language model, and how many remain."""

    @property
    def layer(self) -> int:
        """0-based: layers from here on work on fewer."""

    def keep(self, visual: int) -> int:
        """How many of `visual` tokens remain."""


@dataclass(frozen=True)
class Keep:
    """Keep `round(share * visual)` tokens from `layer` on."""

    layer: int
    share: float

    def keep(self, visual: int) -> int:
        return round(self.share * visual)


@dataclass(frozen=True)
class Plan:
    """One row: how many visual tokens go into the language model, and where inside it they get fewer.

    Attributes:
        label: method and budget.
        retain_ratio: the budget.
        sent: visual tokens, without separators.
        inner: reductions by rising layer.
        needs_importance: whether the vision tower's last attention is read besides.
    """

    label: str
    retain_ratio: float
    sent: int
    inner: tuple[Reduction, ...] = ()
    needs_importance: bool = False

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
    """

    model: str
    text_tokens: int
    dtype: str
    vision: VisionCount
    rows: tuple[Cost, ...]

    def vision_operations(self, row: Cost) -> int:
        """Of vision tower and projector, and of reading importance where the row's method does."""
        encoding = sum(self.vision.operations.values())
        return encoding + (self.vision.importance if row.plan.needs_importance else 0)

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
    methods: Sequence[str], ratios: Sequence[float], frames: int, tokens: int, layers: int
) -> list[Plan]:
    """Full tokens, then `methods` at every ratio, on `frames` of `tokens` each and a decoder of `layers`.

    FastV: before layer 2, `retain_ratio` stays. PDrop: half goes at each quarter of the layers (8, 16 and
    24 of 32 in its paper), whatever the ratio. HoliTom: its own inner stage; "w/o M" is without it.

    Raises:
        SettingsError: an unknown method, a ratio that is not in (0, 1], a decoder without such a layer.
    """
    found = [Plan("full tokens", 1.0, frames * tokens)]
    for method in methods:
        if method == "pdrop":
            quarters = sorted({round(layers * part / 4) for part in (1, 2, 3)} - {0, layers})
            found.append(Plan("PDrop", 1.0, frames * tokens, tuple(Keep(at, 0.5) for at in quarters)))
        else:
            found += [_plan(method, ratio, frames, tokens, layers) for ratio in ratios]
    return found


def _plan(method: str, ratio: float, frames: int, tokens: int, layers: int) -> Plan:
    holitom = HoliTom(retain_ratio=ratio)  # checks the ratio, for all
    percent = f"{100 * ratio:g}%"
    merged = frames * ceil(tokens * ratio)
    if method == "holitom":
        return Plan(f"HoliTom {percent}", ratio, merged, holitom.inner(layers), holitom.needs_importance)
    if method == "holitom-outer":
        return Plan(f"HoliTom w/o M {percent}", ratio, merged, (), holitom.needs_importance)
    if method == "fastv":
        require("layers", layers, "more than 2 for FastV", lambda count: count > 2)
        return Plan(f"FastV {percent}", ratio, frames * tokens, (Keep(2, ratio),))
    raise SettingsError(f"method must be one of {', '.join(METHODS)}, not {method!r}")


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
    from transformers import AutoConfig, AutoModelForImageTextToText

    if (
        name not in PUBLISHED
        and not Path(name).exists()
        and ("/" not in name or name.startswith((".", "/", "~")))
    ):
        raise ModelError(f"model {name}: no such folder or config; published shapes: {', '.join(PUBLISHED)}")
    try:
        config = published_config(name) if name in PUBLISHED else AutoConfig.from_pretrained(name)
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
    methods: Sequence[str] = METHODS,
    text_tokens: int = 32,
    dtype: str = "bfloat16",
    size: tuple[int, int] = (640, 360),
) -> Costs:
    """Count one prompt with one video for every method and ratio.

    Args:
        name: see `skeleton`.
        frames: of the video.
        ratios: shares of the visual tokens to keep.
        methods: of `METHODS`.
        text_tokens: tokens of the prompt beside the video's, at least the one that is asked for the answer.
        dtype: of the KV cache: float32, bfloat16 or float16.
        size: width and height of a frame, before the model's own processor resizes it.

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
    plans(methods, ratios, frames, tokens=1, layers=28)  # bad settings before big models

    model = skeleton(name, getattr(torch, dtype))
    adapter = adapter_for(model)
    text: Any = model.config.get_text_config()
    if dtype == "float32" and getattr(text, "num_experts_per_tok", None):
        raise SettingsError("a mixture of experts is counted in bfloat16 or float16, not in float32")
    decoder = Decoder(text.num_hidden_layers, text.hidden_size, text.intermediate_size)
    rows = []
    try:
        vision = count_vision(adapter, frames, *size)
        for plan in plans(methods, ratios, vision.frames, vision.tokens, decoder.layers):
            counted = [Level(start, n + text_tokens) for start, n in plan.levels(vision.separators)]
            prefill = count_prefill(model, adapter, counted)
            rows.append(Cost(plan, paper_prefill(plan.levels(), decoder), prefill))
    except RuntimeError as error:
        if isinstance(error, HolitomError):
            raise
        raise ModelError(f"model {name}: its shapes do not fit together: {error}") from error
    return Costs(name, text_tokens, dtype, vision, tuple(rows))
