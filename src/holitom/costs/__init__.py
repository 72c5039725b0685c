"""Costs of a prompt with a video, by method and budget: the paper's formula, counted operations, KV cache.

`decoder.py` computes costs from a config, `counting.py` counts operations of the real model class on the meta
device, `plans.py` computes how many tokens a method leaves, and `table.py` makes the table of all costs.
"""

from holitom.costs.counting import CacheGroup, PrefillCount, VisionCount, count_prefill, count_vision
from holitom.costs.decoder import Decoder, Layer, Level, Span, layer_operations, spans
from holitom.costs.plans import Plan, plans
from holitom.costs.skeleton import skeleton
from holitom.costs.table import USUAL, Cost, Costs, costs, unit_of

__all__ = [
    "USUAL",
    "CacheGroup",
    "Cost",
    "Costs",
    "Decoder",
    "Layer",
    "Level",
    "Plan",
    "PrefillCount",
    "Span",
    "VisionCount",
    "costs",
    "count_prefill",
    "count_vision",
    "layer_operations",
    "plans",
    "skeleton",
    "spans",
    "unit_of",
]
