"""The machine that figures are measured on: its description, and the memory that a call takes."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from holitom.video.threads import cores


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads during the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Peak:
    """Peak memory of a block above the memory in use before it; `bytes` is None where unknown."""

    bytes: int | None = None

    @property
    def megabytes(self) -> float | None:
        return None if self.bytes is None else self.bytes / 1e6


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory of the block: on a GPU what torch allocates, else the process's resident
    memory.

    Resident memory is known on Linux only. It counts whole pages, and memory that the allocator frees late.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory freed by earlier calls must not serve this one unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _resident("VmRSS")
    except (AttributeError, OSError):
        yield peak
        return
    yield peak
    peak.bytes = max(0, _resident("VmHWM") - before)


def available_bytes(device: torch.device) -> int | None:
    """Free memory of `device` in bytes; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        free = _field(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")  # limits of a container
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe processor, cores, threads and device: a GPU by its card's name."""
    return {
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def describe(device: torch.device) -> dict[str, Any]:
    """Describe hardware and versions, which are printed with every figure."""
    import transformers

    return {
        **hardware(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _resident(field: str) -> int:
    return _field(Path("/proc/self/status"), field)


def _field(path: Path, name: str) -> int:
    """Read a memory field of a `/proc` file, in bytes."""
    lines = path.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
