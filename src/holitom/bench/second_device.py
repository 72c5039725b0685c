"""A simulated device beside the CPU, for machines without a GPU: its tensors hold their data on the host.

PyTorch keeps one device type (`privateuse1`) free for other backends. Here it becomes `second`, and a tensor
subclass holds the data, an ordinary CPU tensor. Every operation on the device goes through `_dispatch`, which
behaves as CUDA in two respects that a CPU does not show:

- An operation refuses device tensors together with host tensors, unless CUDA allows it: a host scalar in
  elementwise arithmetic, copies, and indexing by host indices.
- Device synchronisations are counted: reading a value or a shape that depends on values, and copies between
  host and device unless they are `non_blocking` and go to the device.

    with SecondDevice() as device:
        model = device.model(stock_model)           # a copy whose parameters and buffers are on the device
        inputs = device.inputs(inputs)
        with device.counting() as waits:
            model(**inputs)
    print(waits.total, waits.places)

Only inference is simulated: no autograd, no storage, no streams. Kernels are the CPU's, so results equal the
CPU's bit for bit. `holitom bench overhead` counts on it, and the tests run every model family on it.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from holitom.ops.host import HOST

aten: Any = torch.ops.aten

NAME = "second"

# Operations whose value, or shape of the result, the host waits for.
READS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Operations that take host and device tensors.
CROSSES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
# Operations that take a host scalar with device tensors, as elementwise arithmetic does.
TAKES_SCALARS = {"fill_", "fill", "masked_fill", "masked_fill_", "index_fill", "index_fill_"}


def reads_values(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation (other than a copy) makes the host wait for a value, or for a shape that depends
    on values.

    Args:
        name: name of the operation, without its overload.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if name in READS:
        return True
    if name == "repeat_interleave":  # without the size of its output it reads the repeats
        repeats = args[0] if len(args) == 1 else args[1]
        return isinstance(repeats, Tensor) and kwargs.get("output_size") is None
    if name in INDEXING:  # a mask's number of true entries is the size of the result
        masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        # With a host scalar CUDA uses `masked_fill`, which does not wait.
        fills = name != "index" and _on_host(args[2]) and args[2].numel() == 1
        return masks and not fills
    return False


class _Backend(_DummyBackendModule):
    """The module `torch.second`, which checkpointing needs for the autocast types of registered backends."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@cache
def _register() -> torch.device:
    """Register `second` with PyTorch, once per process, since it cannot be undone."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    return torch.device(NAME, 0)


@dataclass
class Waits:
    """Counts of device synchronisations.

    Attributes:
        kinds: counts by kind: an operation's name, "to host", "to device".
        places: counts by kind and line of code, the innermost outside torch and this file.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.kinds.total()


_counting: list[Waits] = []


def _waits(kind: str) -> None:
    for waits in _counting:
        waits.kinds[kind] += 1
        waits.places[f"{kind}: {_place()}"] += 1


def _place() -> str:
    """The innermost line outside torch and this file."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and "/torch/" not in file:
            return f"{file.partition('site-packages/')[2] or file}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class DeviceTensor(Tensor):
    """A tensor of `second`; `held` is its data on the host."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        wrapper: Any = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=_register(),
        )
        wrapper.held = held
        made: DeviceTensor = wrapper
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})

    # PyTorch's own versions of these methods do not go through dispatch.

    def tolist(self) -> Any:
        _waits("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy; use .cpu() first")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"{NAME}({self.held})"


def _on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _tensors(*values: Any) -> list[Tensor]:
    """List the tensors among an operation's arguments."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _held(value: Any) -> Any:
    """Replace device tensors in `value` by their data on the host, and the device by the host."""

    def held(leaf: Any) -> Any:
        if isinstance(leaf, DeviceTensor):
            return leaf.held
        return HOST if isinstance(leaf, torch.device) and leaf.type == NAME else leaf

    return tree_map(held, value)


def _on_host(value: Any) -> Any:
    return isinstance(value, Tensor) and not isinstance(value, DeviceTensor)


def _wrapped(value: Any) -> Any:
    """Replace tensors of the host in an operation's result by device tensors."""
    return tree_map(lambda leaf: DeviceTensor(leaf) if _on_host(leaf) else leaf, value)


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the host's data, refuse what CUDA refuses, and count device synchronisations."""
    tensors = _tensors(args, kwargs)
    given = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
    if not given and not _on_device(kwargs.get("device")):
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    if name == "to":  # in inference mode it is not decomposed into copies
        return _to(func, args, kwargs)
    if name in CROSSES:
        return _crossing(name, func, args, kwargs)
    if given:
        _check_one_device(name, func, args, [tensor for tensor in tensors if _on_host(tensor)])
    if reads_values(name, args, kwargs):
        _waits(name)
    own_args, own_kwargs = _held(args), _held(kwargs)
    if name == "histc" and not own_args[0].is_floating_point():  # CUDA takes integers, the CPU does not
        own_args = (own_args[0].float(), *own_args[1:])
    out = func(*own_args, **own_kwargs)
    if name == "_local_scalar_dense":
        return out
    if func._schema.is_mutable:
        return _mutated(func, args, kwargs, out)
    return _wrapped(out)


def _to(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run any overload of `Tensor.to`."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    tensor, like = given["self"], given.get("other")
    dtype, device = (given.get("dtype"), given.get("device")) if like is None else (like.dtype, like.device)
    dtype, device = dtype or tensor.dtype, torch.device(device or tensor.device)
    if (dtype, device.type) == (tensor.dtype, tensor.device.type) and not given.get("copy"):
        return tensor
    how = {"dtype": dtype, "device": device, "non_blocking": bool(given.get("non_blocking"))}
    return _crossing("_to_copy", aten._to_copy.default, (tensor,), how)


def _crossing(name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Copy from device to device, to the host, or to the device."""
    if name == "_to_copy":
        source = args[0]
        lands = _on_device(kwargs["device"]) if kwargs.get("device") else isinstance(source, DeviceTensor)
        out = func(*_held(args), **_held(kwargs))
        if out is source:
            out = out.clone()
        result = _wrapped(out) if lands else out
    else:
        target, source = args[:2]
        lands = isinstance(target, DeviceTensor)
        func(*_held(args), **kwargs)
        result = target
    if isinstance(source, DeviceTensor) and not lands:
        _waits("to host")  # a copy to pageable host memory waits even if it is non_blocking
    elif lands and _on_host(source):
        waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if waits:
            _waits("to device")
    return result


def _check_one_device(name: str, func: Any, args: Any, host: list[Tensor]) -> None:
    """Raise `RuntimeError` where CUDA would for `host` tensors together with device tensors."""
    if not host:
        return
    if name in INDEXING and isinstance(args[0], DeviceTensor):
        indices = {id(index) for index in args[1] if index is not None}
        for _ in indices.intersection(map(id, host)):
            _waits("to device")  # host indices are copied to the device of the indexed tensor
        if all(tensor.dim() == 0 for tensor in host if id(tensor) not in indices):
            return
    scalars = torch.Tag.pointwise in func.tags or name in TAKES_SCALARS
    if scalars and all(tensor.dim() == 0 for tensor in host):
        return
    shapes = [tuple(tensor.shape) for tensor in host]
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but {name} got tensors of shapes {shapes} on cpu "
        f"beside some on {NAME}:0"
    )


def _mutated(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    """The result of an operation in place or with `out=`: the tensors that it was given."""
    written = [
        kwargs[argument.name] if argument.name in kwargs else args[position]
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    for tensor in written:
        if isinstance(tensor, DeviceTensor) and (tensor.shape, tensor.stride()) != (
            tensor.held.shape,
            tensor.held.stride(),
        ):
            raise NotImplementedError(f"{func} changes a tensor's shape in place")
    if not func._schema.returns:
        return None
    return written[0] if len(func._schema.returns) == 1 else tuple(written)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatches operations without device tensors among their arguments, such as
    `torch.zeros(device=...)`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


BUILDERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
ATTENTION = torch.nn.functional.scaled_dot_product_attention
SEEN = BUILDERS | {Tensor.__setitem__, ATTENTION}


class _Functions(TorchFunctionMode):
    """Handles functions that build tensors from Python values and copy them to the device without
    dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in SEEN:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if func is Tensor.__setitem__:
            return _set(*args)
        if func is ATTENTION:  # one fused operation, as on CUDA
            return _attention(args, kwargs)
        if func is not Tensor.new_tensor and _on_device(kwargs.get("device")):
            if isinstance(args[0], Tensor):
                return args[0].to(**{k: v for k, v in kwargs.items() if k in ("device", "dtype")})
            kwargs["device"] = "cpu"
            _waits(func.__name__)
            return DeviceTensor(func(*_read(args), **kwargs))
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor) and not kwargs.get("device"):
            _waits("new_tensor")
            return DeviceTensor(args[0].held.new_tensor(*_read(args[1:]), **kwargs))
        return func(*args, **kwargs)


def _attention(args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = _tensors(args, kwargs)
    host = [tensor for tensor in tensors if _on_host(tensor)]
    if len(host) == len(tensors):
        return ATTENTION(*args, **kwargs)
    _check_one_device("scaled_dot_product_attention", aten.scaled_dot_product_attention.default, args, host)
    return DeviceTensor(ATTENTION(*_held(args), **_held(kwargs)))


def _set(tensor: Tensor, index: Any, value: Any) -> None:
    """Run `tensor[index] = value`; for a mask and a number CUDA uses `masked_fill_`, which does not wait."""
    mask = isinstance(index, DeviceTensor) and index.dtype == torch.bool
    if mask and isinstance(tensor, DeviceTensor) and isinstance(value, (bool, int, float)):
        tensor.masked_fill_(index.view(*index.shape, *[1] * (tensor.dim() - index.dim())), value)
    else:
        tensor[index] = value


def _read(value: Any) -> Any:
    """Read the device tensors in a list that becomes a tensor, one by one."""
    if isinstance(value, DeviceTensor):
        return value.tolist()
    return type(value)(map(_read, value)) if type(value) in (list, tuple) else value


class SecondDevice:
    """A context manager in whose block the device `second` can be used.

    Attributes:
        device: its `torch.device`.
    """

    def __init__(self) -> None:
        self.device = _register()
        self._modes: list[Any] = []

    def __enter__(self) -> SecondDevice:
        self._modes = [_Functions(), _Operations()]  # type: ignore[no-untyped-call]
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *failed: Any) -> None:
        while self._modes:
            self._modes.pop().__exit__(*failed)

    def tensor(self, host: Tensor) -> Tensor:
        """Copy `host` to the device without counting it."""
        return DeviceTensor(host.detach().clone())

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the tensors of a processor's output to the device."""
        return {k: self.tensor(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}

    def model(self, model: Any) -> Any:
        """Copy `model` for inference, with parameters and buffers on the device."""
        moved = copy.deepcopy(model)
        made: dict[int, Any] = {}

        def place(host: Tensor, wrap: Callable[[Tensor], Any]) -> Any:
            if id(host) not in made:
                made[id(host)] = wrap(DeviceTensor(host.detach()))
            return made[id(host)]

        for module in moved.modules():
            for name, own in module._parameters.items():
                if own is not None:
                    module._parameters[name] = place(own, lambda t: nn.Parameter(t, requires_grad=False))
            for name, own in module._buffers.items():
                if own is not None:
                    module._buffers[name] = place(own, lambda t: t)
            for name, own in list(vars(module).items()):  # other tensors, such as scales
                if isinstance(own, Tensor):
                    setattr(module, name, place(own, lambda t: t))
        return moved

    @contextmanager
    def counting(self) -> Iterator[Waits]:
        """Count device synchronisations in the block."""
        waits = Waits()
        _counting.append(waits)
        try:
            yield waits
        finally:
            _counting.remove(waits)
