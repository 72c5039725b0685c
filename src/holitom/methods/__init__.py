"""Merging methods, one file for each paper.

Names are imported on first use, so that listing the methods imports none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from holitom.methods.registry import METHODS, get_method, method_class

if TYPE_CHECKING:
    from holitom.methods.aot import AOT
    from holitom.methods.base import Combined, Method
    from holitom.methods.dpp import DPP
    from holitom.methods.dycoke import DyCoke
    from holitom.methods.earlytom import EarlyTom
    from holitom.methods.evs import EVS
    from holitom.methods.fastv import FastV
    from holitom.methods.fastvid import FastVID
    from holitom.methods.flashvid import FlashVID
    from holitom.methods.floors import Random, Uniform
    from holitom.methods.gleanvid import GleanVID
    from holitom.methods.holitom import HoliTom
    from holitom.methods.holitom_plus import HoliTomPlus
    from holitom.methods.pdrop import PyramidDrop
    from holitom.methods.prunevid import PruneVid
    from holitom.methods.simplecluster import SimpleCluster
    from holitom.methods.unified import Unified
    from holitom.methods.vcast import VCAST
    from holitom.methods.vidcom2 import VidCom2
    from holitom.methods.visionzip import VisionZip

_HOME = {
    "Combined": "holitom.methods.base",
    "Method": "holitom.methods.base",
} | {name: module for module, _, name in (row.path.partition(":") for row in METHODS.values())}

__all__ = [
    "AOT",
    "DPP",
    "EVS",
    "METHODS",
    "VCAST",
    "Combined",
    "DyCoke",
    "EarlyTom",
    "FastV",
    "FastVID",
    "FlashVID",
    "GleanVID",
    "HoliTom",
    "HoliTomPlus",
    "Method",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "SimpleCluster",
    "Unified",
    "Uniform",
    "VidCom2",
    "VisionZip",
    "get_method",
    "method_class",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value
