"""The table of costs of a prompt with a video, by method and budget.

Counted operations are single ones, two for a multiply-add; the paper's formula counts multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from holitom.costs.counting import PrefillCount, VisionCount, count_prefill, count_vision
from holitom.costs.decoder import Decoder, Level
from holitom.costs.plans import Plan, plans
from holitom.costs.skeleton import skeleton
from holitom.errors import HolitomError, ModelError, SettingsError
from holitom.methods.base import require
from holitom.methods.choose import read_methods
from holitom.models import adapter_for

# The methods of the paper's table; PyramidDrop as in its own paper, where half stays at each quarter.
USUAL = "fastv,pdrop[retain_ratio=0.46875],holitom-outer,holitom"
MOST_FRAMES = 8_192  # an hour at two frames a second


@dataclass(frozen=True)
class Cost:
    """One row of the table.

    Attributes:
        plan: method, budget and numbers of tokens.
        paper: multiply-adds of the prefill by the paper's formula.
        prefill: counted operations and cache of the prefill, with text and separators.
    """

    plan: Plan
    paper: int
    prefill: PrefillCount


@dataclass(frozen=True)
class Costs:
    """Costs of one model for every method and budget.

    Attributes:
        model: the model's name.
        text_tokens: tokens of the prompt besides the video's.
        dtype: dtype of the KV cache.
        vision: costs of encoding the video, the same for all rows.
        rows: full tokens first, then every method at every budget.
        refused: reasons by label for methods that cannot meet a budget or whose count depends on the video.
    """

    model: str
    text_tokens: int
    dtype: str
    vision: VisionCount
    rows: tuple[Cost, ...]
    refused: dict[str, str]

    def vision_operations(self, row: Cost) -> int:
        """Operations of vision tower and projector, and of reading importance and keys if the method does."""
        return self.vision.with_reading(row.plan.method)

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
                    "retain_ratio": row.plan.method.retain_ratio,
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

    LLaVA-Video's newlines are counted as for full tokens, although those of empty grid rows are not sent.

    Args:
        name: see `skeleton`.
        frames: frames of the video.
        ratios: retain ratios.
        methods: methods as `read_methods` reads them.
        text_tokens: tokens of the prompt besides the video's, from 1 up.
        dtype: dtype of the KV cache: "float32", "bfloat16" or "float16".
        size: width and height of a frame in pixels, before the model's own processor resizes it.

    Raises:
        SettingsError: a number is out of its range, or a method or dtype is unknown.
        ModelError: there is no such model.
        UnsupportedModelError: there is no adapter for the model.
    """
    require("frames", frames, f"in 1..{MOST_FRAMES}", lambda count: 1 <= count <= MOST_FRAMES, whole=True)
    require("text_tokens", text_tokens, "in 1..1000000", lambda n: 1 <= n <= 10**6, whole=True)
    for side in size:
        require("size", side, "two of 1..8192", lambda pixels: 1 <= pixels <= 8192, whole=True)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise SettingsError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    named = read_methods(methods)
    plans(named, ratios, frames, tokens=1, layers=28)  # refuse bad settings before building the model

    model = skeleton(name, getattr(torch, dtype))
    adapter = adapter_for(model)
    text: Any = model.config.get_text_config()
    if dtype == "float32" and getattr(text, "num_experts_per_tok", None):
        raise SettingsError("a mixture of experts is counted in bfloat16 or float16, not in float32")
    decoder = Decoder.of(model.config)
    rows = []
    try:
        vision = count_vision(adapter, frames, *size)
        planned, refused = plans(named, ratios, vision.frames, vision.tokens, len(decoder.layers))
        for plan in planned:
            try:
                for stage in plan.inner:
                    adapter.ranked_by(stage)
            except SettingsError as error:
                refused[plan.label] = str(error)
                continue
            counted = [Level(start, n + text_tokens) for start, n in plan.levels(vision.separators)]
            prefill = count_prefill(model, adapter, counted)
            rows.append(Cost(plan, decoder.prefill(plan.levels()), prefill))
    except RuntimeError as error:
        if isinstance(error, HolitomError):
            raise
        raise ModelError(f"model {name}: its shapes do not fit together: {error}") from error
    return Costs(name, text_tokens, dtype, vision, tuple(rows), refused)


def unit_of(operations: float) -> tuple[str, float]:
    """Choose the unit that a count of operations is written in: its name, and operations of one."""
    return ("TFLOPs", 1e12) if operations >= 1e12 else ("GFLOPs", 1e9)
