"""Import the public names of a package on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module


def on_first_use(
    package: str, *homes: Sequence[str], own: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, `__dir__` and `__all__` of `package`.

    Type checkers read none of them: the package also imports each name under `TYPE_CHECKING`, as itself.

    Args:
        package: name of the package.
        homes: each a module and the names that are imported from it.
        own: further public names, which the package defines when it is imported.
    """
    home = {name: module for module, *names in homes for name in names}
    public = sorted({*home, *own})
    module = sys.modules[package]

    def get(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home[name]), name)
        setattr(module, name, value)
        return value

    return get, lambda: sorted({*vars(module), *public}), public
