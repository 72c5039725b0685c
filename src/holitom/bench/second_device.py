"""A device that is not the CPU, for machines that have none: its tensors lie on the host and say they do not.

PyTorch keeps one device type (`privateuse1`) free for backends from outside. Here it becomes `second`, and a
tensor subclass carries the data, an ordinary CPU tensor. Every operation on the device goes through
`_dispatch`, which behaves as CUDA does in the two ways that a CPU hides:

- A device tensor and a host tensor do not meet in one operation, except where CUDA lets them: a host scalar
  in elementwise arithmetic, copies, and indexing by host indices.
- What makes the host wait for the device is counted: reading a value or a shape that depends on values, and
  copies between host and device unless they are `non_blocking` and go to the device.

    with SecondDevice() as device:
        model = device.model(stock_model)           # a copy whose parameters and buffers lie on the device
        inputs = device.inputs(inputs)
        with device.counting() as waits:
            model(**inputs)
    print(waits.total, waits.places)

Only inference is emulated: no autograd, no storage, no streams. Kernels are the CPU's, so results are the
CPU's to the bit.
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
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten: Any = torch.ops.aten

NAME = "second"
HOST = torch.device("cpu")

# The host needs their result's value or shape.
READS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# They take tensors of both sides.
CROSSES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}
# They take a host scalar beside device tensors, as elementwise arithmetic does.
TAKES_SCALARS = {"fill_", "fill", "masked_fill", "masked_fill_", "index_fill", "index_fill_"}


def reads_values(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host waits for the device in an operation that is no copy: for a value, or for the shape of
    a result that depends on values.

    Args:
        name: the operation's, without its overload.
        args: its arguments.
        kwargs: likewise.
    """
    if name in READS:
        return True
    if name == "repeat_interleave":  # without the size of its output it asks the device
        repeats = args[0] if len(args) == 1 else args[1]
        return isinstance(repeats, Tensor) and kwargs.get("output_size") is None
    if name in INDEXING:  # by a mask: how many are true?
        masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        fills = (
            name != "index" and _on_host(args[2]) and args[2].numel() == 1
        )  # by `masked_fill`, which waits not
        return masks and not fills
    return False


class _Backend(_DummyBackendModule):
    """The module `torch.second`: checkpointing asks every registered backend for its autocast types."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@cache
def _register() -> torch.device:
    """Make `second` known to PyTorch; once a process, for it cannot be undone."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    return torch.device(NAME, 0)


@dataclass
class Waits:
    """What made the host wait for the device.

    Attributes:
        kinds: how often, by kind: an operation's name, "to host", "to device".
        places: how often, by kind and by the line of code that asked, innermost of the packages looked at.
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

    # PyTorch's own versions of these go past dispatch.

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


def _gather(values: Any, into: list[Tensor]) -> None:
    """Collect the tensors among an operation's arguments."""
    for value in values:
        if isinstance(value, Tensor):
            into.append(value)
        elif isinstance(value, (list, tuple)):
            _gather(value, into)


def _held(value: Any) -> Any:
    """`value`, or what is in it, as the host's kernels take it."""
    if isinstance(value, DeviceTensor):
        return value.held
    if isinstance(value, (list, tuple)):
        return [_held(each) for each in value]
    if isinstance(value, dict):
        return {name: _held(each) for name, each in value.items()}
    return HOST if isinstance(value, torch.device) and value.type == NAME else value


def _on_host(value: Any) -> Any:
    return isinstance(value, Tensor) and not isinstance(value, DeviceTensor)


def _wrapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_wrapped, value))
    return DeviceTensor(value) if _on_host(value) else value


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the host's data, refuse what CUDA would, and count what makes the host wait."""
    tensors: list[Tensor] = []
    _gather(args, tensors)
    _gather(kwargs.values(), tensors)
    given = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
    if not given and not _on_device(kwargs.get("device")):
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    if name == "to":  # in inference mode it comes in one piece
        return _to(func, args, kwargs)
    if name in CROSSES:
        return _crossing(name, func, args, kwargs)
    if given:
        _check_one_device(name, func, args, [tensor for tensor in tensors if _on_host(tensor)])
    if reads_values(name, args, kwargs):
        _waits(name)
    own_args, own_kwargs = _held(args), _held(kwargs)
    if name == "histc" and not own_args[0].is_floating_point():  # CUDA counts integers, the CPU does not
        own_args = (own_args[0].float(), *own_args[1:])
    out = func(*own_args, **own_kwargs)
    if name == "_local_scalar_dense":
        return out
    if func._schema.is_mutable:
        return _mutated(func, args, kwargs, out)
    return _wrapped(out)


def _to(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`Tensor.to`, whatever its overload."""
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
        _waits(
            "to host"
        )  # also if it is non_blocking: ordinary host memory cannot be written behind its back
    elif lands and _on_host(source):
        waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if waits:
            _waits("to device")
    return result


def _check_one_device(name: str, func: Any, args: Any, host: list[Tensor]) -> None:
    """Raise `RuntimeError` where CUDA would for the `host` tensors beside device ones."""
    if not host:
        return
    if name in INDEXING and isinstance(args[0], DeviceTensor):
        indices = {id(index) for index in args[1] if index is not None}
        for _ in indices.intersection(map(id, host)):
            _waits("to device")  # host indices are sent after the tensor that they index
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
    """What an operation in place, or into `out=`, returns: the tensors that it was given."""
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
    """Sees operations that no device tensor goes into, such as `torch.zeros(device=...)`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


BUILDERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
ATTENTION = torch.nn.functional.scaled_dot_product_attention
SEEN = BUILDERS | {Tensor.__setitem__, ATTENTION}


class _Functions(TorchFunctionMode):
    """Sees those that build tensors from Python values and go past dispatch on their way to the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in SEEN:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if func is Tensor.__setitem__:
            return _set(*args)
        if func is ATTENTION:  # in one piece, as CUDA does it and as the host's own kernel does
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
    tensors: list[Tensor] = []
    _gather([*args, *kwargs.values()], tensors)
    host = [tensor for tensor in tensors if _on_host(tensor)]
    if len(host) == len(tensors):
        return ATTENTION(*args, **kwargs)
    _check_one_device("scaled_dot_product_attention", aten.scaled_dot_product_attention.default, args, host)
    return DeviceTensor(ATTENTION(*_held(args), **_held(kwargs)))


def _set(tensor: Tensor, index: Any, value: Any) -> None:
    """`tensor[index] = value`. CUDA fills by a mask where the value is a number, without asking how many."""
    mask = isinstance(index, DeviceTensor) and index.dtype == torch.bool
    if mask and isinstance(tensor, DeviceTensor) and isinstance(value, (bool, int, float)):
        tensor.masked_fill_(index.view(*index.shape, *[1] * (tensor.dim() - index.dim())), value)
    else:
        tensor[index] = value


def _read(value: Any) -> Any:
    """A list that becomes a tensor: device tensors in it are read one by one."""
    if isinstance(value, DeviceTensor):
        return value.tolist()
    return type(value)(map(_read, value)) if type(value) in (list, tuple) else value


class SecondDevice:
    """Within its `with` block, `second` works.

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
        """A copy of `host` on the device; it counts for nothing."""
        return DeviceTensor(host.detach().clone())

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a processor returned, its tensors on the device."""
        return {k: self.tensor(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}

    def model(self, model: Any) -> Any:
        """A copy of `model` whose parameters and buffers lie on the device; for inference."""
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
            for name, own in list(vars(module).items()):  # tensors that are neither, such as scales
                if isinstance(own, Tensor):
                    setattr(module, name, place(own, lambda t: t))
        return moved

    @contextmanager
    def counting(self) -> Iterator[Waits]:
        """Count what makes the host wait in the block."""
        waits = Waits()
        _counting.append(waits)
        try:
            yield waits
        finally:
            _counting.remove(waits)
