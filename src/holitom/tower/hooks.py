"""Hooks on the layers of a vision tower, through which a call changes a layer's input and output."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from holitom.tower.base import Tower
from holitom.wrapping import Hook

Arguments = dict[str, Any]


class LayerCall(Protocol):
    """One call of a tower that changes the hidden states between layers."""

    @property
    def tower(self) -> Tower:
        """The tower."""

    def enter(self, index: int, hidden: Tensor) -> Tensor:
        """The hidden states that enter layer `index`, given the tower's own."""

    def other(self, argument: Any) -> Any:
        """The value of another argument of a layer, given the tower's own."""

    def leave(self, index: int, hidden: Tensor) -> Tensor:
        """The hidden states that leave layer `index`, given the layer's output."""


C = TypeVar("C", bound=LayerCall)


def hook_layers(tower: Tower, current: ContextVar[C | None]) -> list[Any]:
    """Hook the layers of `tower`; the hooks do nothing while `current` holds no call of it.

    Returns:
        The handles that remove the hooks.
    """
    handles: list[Any] = []
    for index, layer in enumerate(tower.layers):
        handles.append(layer.register_forward_pre_hook(Hook(_enter(index, current)), with_kwargs=True))
        # This hook runs before transformers' own hooks, which record the outputs of layers.
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
