"""The table of methods by name; a method's module is imported when it is first used."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.methods.base import Method


class Row(NamedTuple):
    """One method.

    Attributes:
        path: module and class, `module:Class`.
        does: a description of at most 46 characters.
        ratios: the retain ratios that it can meet, as an interval; `T` frames of `N` tokens.
    """

    path: str
    does: str
    ratios: str = "(0, 1]"


METHODS = {
    "holitom": Row("holitom.methods.holitom:HoliTom", "averages still tokens, keeps the most attended"),
    "holitom-plus": Row(
        "holitom.methods.holitom_plus:HoliTomPlus", "HoliTom, ranking the whole video at once"
    ),
    "random": Row("holitom.methods.floors:Random", "keeps tokens drawn at random"),
    "uniform": Row("holitom.methods.floors:Uniform", "keeps whole frames, evenly spread", "[1/T, 1]"),
    "evs": Row("holitom.methods.evs:EVS", "drops what hardly changed since the last frame", "[1/T, 1]"),
    "vidcom2": Row("holitom.methods.vidcom2:VidCom2", "keeps tokens least like their frame and video"),
    "dycoke": Row(
        "holitom.methods.dycoke:DyCoke", "keeps every 4th frame, of the rest the changes", "[0.25, 1]"
    ),
    "visionzip": Row("holitom.methods.visionzip:VisionZip", "keeps the most attended, merges the others"),
    "prunevid": Row("holitom.methods.prunevid:PruneVid", "averages still tokens, clusters all in space"),
    "fastvid": Row("holitom.methods.fastvid:FastVID", "cuts scenes, keeps salient and dense tokens"),
    "flashvid": Row("holitom.methods.flashvid:FlashVID", "keeps diverse tokens, links others over time"),
    "simplecluster": Row(
        "holitom.methods.simplecluster:SimpleCluster", "sends means of alike tokens at alike places"
    ),
    "vcast": Row("holitom.methods.vcast:VCAST", "keeps salient tokens, more where frames turn", "[1/N, 1]"),
    "unified": Row("holitom.methods.unified:Unified", "keeps important unlike tokens, clusters others"),
    "aot": Row("holitom.methods.aot:AOT", "transports each clip's tokens to a few anchors"),
    "earlytom": Row("holitom.methods.earlytom:EarlyTom", "keeps important tokens, spread in alike frames"),
    "gleanvid": Row("holitom.methods.gleanvid:GleanVID", "keeps what earlier tokens do not span"),
    "dpp": Row("holitom.methods.dpp:DPP", "keeps important tokens unlike one another"),
    "fastv": Row("holitom.methods.fastv:FastV", "drops the least attended tokens after layer 2"),
    "pdrop": Row(
        "holitom.methods.pdrop:PyramidDrop", "drops tokens at each quarter of the layers", "(0.25, 1]"
    ),
}


def method_class(name: str) -> type[Method]:
    """Return the class of method `name`.

    Raises:
        SettingsError: there is no such method; the message lists the known names.
    """
    if name not in METHODS:
        raise SettingsError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].path.partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def get_method(name: str, **settings: Any) -> Method:
    """Make method `name` with `settings` and defaults for the rest: `get_method("evs", retain_ratio=0.25)`.

    Raises:
        SettingsError: there is no such method, it has no such setting, or a value is out of its range.
    """
    found = method_class(name)
    known = [field.name for field in fields(found) if field.init]
    for setting in settings:
        if setting not in known:
            raise SettingsError(f"{name} has no setting {setting!r}; it has {', '.join(known)}")
    return found(**settings)
