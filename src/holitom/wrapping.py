"""Hooks and wrapped methods that belong to one attached method, and take nothing of it into a copy.

`copy.deepcopy` and `pickle` go through `__reduce__`: in the place of a hook, a copy of the model gets one
that does nothing, and in the place of a wrapped method its own stock method. So a copy is a model of its own,
without the method.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import MethodType
from typing import Any

from torch import nn


def no_hook(*args: Any, **kwargs: Any) -> None:
    """What copies of an attached model have in the place of its hooks."""


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


class Wrapped:
    """A method of a module, set on the module itself, which calls `instead` in the place of the stock one.

    Attributes:
        module: whose method it is.
        name: of the method.
        own: the stock method: bound to the module, or what had been set on the module.
        instead: called with the stock method, its arguments and its arguments by name; None once released.
    """

    def __init__(
        self, module: nn.Module, name: str, instead: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
    ) -> None:
        self.module, self.name = module, name
        self.had_own = name in module.__dict__
        self.own = getattr(module, name)
        self.instead: Callable[..., Any] | None = instead
        update_wrapper(self, self.own, updated=())
        module.__dict__[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        instead = self.instead
        return self.own(*args, **kwargs) if instead is None else instead(self.own, args, kwargs)

    def release(self) -> None:
        """Give the module back what it had; where somebody has wrapped this meanwhile, pass calls on."""
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
