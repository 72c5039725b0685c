"""Every method by its name; a method's code is loaded when it is asked for."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from holitom.errors import SettingsError

if TYPE_CHECKING:
    from holitom.methods.base import Method

METHODS = {
    "holitom": "holitom.methods.holitom:HoliTom",
    "holitom-plus": "holitom.methods.holitom_plus:HoliTomPlus",
    "random": "holitom.methods.floors:Random",
    "uniform": "holitom.methods.floors:Uniform",
    "evs": "holitom.methods.evs:EVS",
    "vidcom2": "holitom.methods.vidcom2:VidCom2",
    "dycoke": "holitom.methods.dycoke:DyCoke",
    "visionzip": "holitom.methods.visionzip:VisionZip",
    "prunevid": "holitom.methods.prunevid:PruneVid",
    "fastvid": "holitom.methods.fastvid:FastVID",
    "flashvid": "holitom.methods.flashvid:FlashVID",
    "fastv": "holitom.methods.fastv:FastV",
    "pdrop": "holitom.methods.pdrop:PyramidDrop",
}


def method_class(name: str) -> type[Method]:
    """The class of method `name`.

    Raises:
        SettingsError: there is none; the message names those that there are.
    """
    if name not in METHODS:
        raise SettingsError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def get_method(name: str, **settings: Any) -> Method:
    """Method `name` with `settings`, the rest at its defaults: `get_method("evs", retain_ratio=0.25)`.

    Raises:
        SettingsError: there is no such method, it has no such setting, or a value is out of range.
    """
    found = method_class(name)
    known = [field.name for field in fields(found) if field.init]
    for setting in settings:
        if setting not in known:
            raise SettingsError(f"{name} has no setting {setting!r}; it has {', '.join(known)}")
    return found(**settings)


def method_with(name: str, inner: bool | None, **settings: Any) -> Method:
    """As `get_method`, with HoliTom's inner merge as asked.

    Args:
        name: of the method.
        inner: True: with it; False: HoliTom itself without it; None: as the method comes.
        settings: of the method.
    """
    if name == "holitom" and inner is False:
        settings["inner_drop"] = None
    found = get_method(name, **settings)
    if name != "holitom" and inner:
        found = found.with_inner(get_method("holitom"))
    return found
