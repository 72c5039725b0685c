"""Seconds that `import holitom` adds to a program that imports torch."""

from __future__ import annotations

import statistics
import subprocess
import sys

_MEASURE = """
import time, torch
begin = time.perf_counter()
from holitom import HoliTom
print(time.perf_counter() - begin)
"""


def import_seconds() -> float:
    """Median seconds of `from holitom import HoliTom` after `import torch`, each in a new interpreter."""
    runs = [
        subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return statistics.median(float(run.stdout) for run in runs)
