"""Hooks and wrapped functions of an attached method, which a copy of the model does not share.

`copy.deepcopy` and `pickle` go through `__reduce__`: a copy of the model gets a hook that does nothing in the
place of a hook, and its own stock function in the place of a wrapped function. So a copy has no method
attached.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import MethodType
from typing import Any

from torch import nn


def no_hook(*args: Any, **kwargs: Any) -> None:
    """Do nothing: the hook of a copy of an attached model."""


def _no_hook() -> Callable[..., None]:
    return no_hook


class Hook:
    """A hook that calls `function`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _no_hook, ()


Instead = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""What runs in the place of a function, given that function, its arguments and its keyword arguments."""


class Wrapped:
    """A replacement for a function of a module (such as `generate`), set on the one module object.

    Attributes:
        module: the module.
        name: name of the function.
        own: the stock function: bound to the module, or what had been set on the module before.
        instead: what is called in its place; None once released.
    """

    def __init__(self, module: nn.Module, name: str, instead: Instead) -> None:
        self.module, self.name = module, name
        self.had_own = name in module.__dict__
        self.own = getattr(module, name)
        self.instead: Instead | None = instead
        update_wrapper(self, self.own, updated=())
        module.__dict__[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        instead = self.instead
        return self.own(*args, **kwargs) if instead is None else instead(self.own, args, kwargs)

    def release(self) -> None:
        """Restore the stock function; if another wrapper has been set over this one, only pass calls on."""
        self.instead = None
        if self.module.__dict__.get(self.name) is self:
            if self.had_own:
                self.module.__dict__[self.name] = self.own
            else:
                del self.module.__dict__[self.name]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (_same, (self.own,)) if self.had_own else (_stock, (self.module, self.name))


def _same(own: Any) -> Any:
    return own


def _stock(module: nn.Module, name: str) -> Any:
    return MethodType(getattr(type(module), name), module)
