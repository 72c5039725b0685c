"""How often a method makes the host wait for the device, beyond the stock model, for every family.

python tools/synchronisations.py                     # HoliTom
python tools/synchronisations.py fastv qwen2.5-vl    # another method, some families, and where they wait
"""

from __future__ import annotations

import sys
from pathlib import Path

from holitom.bench.synchronisations import added_synchronisations
from holitom.cli.tables import print_notes, print_table
from holitom.methods import get_method

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the families' small models


def main(method: str = "holitom", *names: str) -> None:
    from support.families import FAMILIES, small

    rows: list[tuple[str, ...]] = []
    places: list[str] = []
    for name in names or FAMILIES:
        one = small(name)
        inputs = one.inputs("w1 <video> w2 w3", videos=[one.video()])
        chosen = get_method(method, retain_ratio=0.5)
        added = added_synchronisations(one.model, chosen, inputs, suppress_tokens=one.unspoken)
        rows.append((name, str(added.prefill), f"{added.step:g}"))
        places += [f"{name}: {count} x {place}" for place, count in added.places.items()] if names else []
    print_table(("family", "a prefill", "a decoding step"), rows)
    print_notes("", f"Device synchronisations that {method} adds, counted on a second device.", *places)


if __name__ == "__main__":
    main(*sys.argv[1:])
