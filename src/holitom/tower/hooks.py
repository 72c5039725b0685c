"""Hooks on the layers of a vision tower, which hand what enters and leaves a layer to the running call."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from holitom.tower.base import Tower
from holitom.wrapping import Hook

Arguments = dict[str, Any]


class LayerCall(Protocol):
    """One call of a tower, whose layers get and give other hidden states than the tower's own."""

    @property
    def tower(self) -> Tower:
        """The tower that it is a call of."""

    def enter(self, index: int, hidden: Tensor) -> Tensor:
        """What enters layer `index`, for the `hidden` states that the tower hands it."""

    def other(self, argument: Any) -> Any:
        """What enters a layer for another `argument` of it."""

    def leave(self, index: int, hidden: Tensor) -> Tensor:
        """What leaves layer `index`, for the `hidden` states that it made."""


C = TypeVar("C", bound=LayerCall)


def hook_layers(tower: Tower, current: ContextVar[C | None]) -> list[Any]:
    """Hook the layers of `tower`; the hooks are idle while `current` holds no call of it.

    Returns:
        The handles that remove the hooks.
    """
    handles: list[Any] = []
    for index, layer in enumerate(tower.layers):
        handles.append(layer.register_forward_pre_hook(Hook(_enter(index, current)), with_kwargs=True))
        # Before transformers' own hooks, which record what leaves a layer.
        handles.append(layer.register_forward_hook(Hook(_leave(index, current)), prepend=True))
    return handles


def _enter(index: int, current: ContextVar[C | None]) -> Callable[..., Any]:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        call = current.get()
        if call is None or call.tower.layers[index] is not module:
            return None
        hidden = call.enter(index, args[0] if args else kwargs["hidden_states"])
        others = {name: call.other(value) for name, value in kwargs.items() if name != "hidden_states"}
        if args:
            return (hidden, *map(call.other, args[1:])), others
        return args, {**others, "hidden_states": hidden}

    return enter


def _leave(index: int, current: ContextVar[C | None]) -> Callable[..., Any]:
    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = current.get()
        if call is None or call.tower.layers[index] is not module:
            return None
        if isinstance(output, tuple):
            return (call.leave(index, output[0]), *output[1:])
        return call.leave(index, output)

    return leave
