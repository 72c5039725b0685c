"""Put a trained checkpoint into the package: bf16 weights in the Hub's key layout, processor and all.

python tools/export_model.py --language runs/language.pt --to src/holitom/assets/moving-digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tiny_llava
import torch
from published_names import rename


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--language", type=Path, default=Path("runs/language.pt"))
    ask.add_argument("--to", type=Path, default=Path("src/holitom/assets/moving-digits"))
    a = ask.parse_args()
    saved = torch.load(a.language, weights_only=False)
    model = tiny_llava.build()
    model.load_state_dict(saved["model"])
    tiny_llava.save(model.to(torch.bfloat16), a.to)
    weights = a.to / "model.safetensors"
    rename(weights)
    print(f"{a.to}: {weights.stat().st_size / 1e6:.1f} MB, trained for {saved['step']} steps")


if __name__ == "__main__":
    main()
