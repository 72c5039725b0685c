"""Merging methods, one file for each paper.

Names are imported on first use, so that listing the methods imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holitom.lazy import on_first_use
from holitom.methods.registry import METHODS as METHODS
from holitom.methods.registry import get_method as get_method
from holitom.methods.registry import method_class as method_class

if TYPE_CHECKING:
    from holitom.methods.aot import AOT as AOT
    from holitom.methods.base import Combined as Combined
    from holitom.methods.base import Method as Method
    from holitom.methods.dpp import DPP as DPP
    from holitom.methods.dycoke import DyCoke as DyCoke
    from holitom.methods.earlytom import EarlyTom as EarlyTom
    from holitom.methods.evs import EVS as EVS
    from holitom.methods.fastv import FastV as FastV
    from holitom.methods.fastvid import FastVID as FastVID
    from holitom.methods.flashvid import FlashVID as FlashVID
    from holitom.methods.floors import Random as Random
    from holitom.methods.floors import Uniform as Uniform
    from holitom.methods.gleanvid import GleanVID as GleanVID
    from holitom.methods.holitom import HoliTom as HoliTom
    from holitom.methods.holitom_plus import HoliTomPlus as HoliTomPlus
    from holitom.methods.pdrop import PyramidDrop as PyramidDrop
    from holitom.methods.prunevid import PruneVid as PruneVid
    from holitom.methods.simplecluster import SimpleCluster as SimpleCluster
    from holitom.methods.unified import Unified as Unified
    from holitom.methods.vcast import VCAST as VCAST
    from holitom.methods.vidcom2 import VidCom2 as VidCom2
    from holitom.methods.visionzip import VisionZip as VisionZip
else:
    __getattr__, __dir__, __all__ = on_first_use(
        __name__,
        ("holitom.methods.base", "Combined", "Method"),
        *(row.path.split(":") for row in METHODS.values()),
        own=["METHODS", "get_method", "method_class"],
    )
