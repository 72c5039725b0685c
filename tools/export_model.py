"""Put a trained checkpoint into a folder: bf16 weights in the Hub's key layout, processor and all.

python tools/export_model.py --model llava --trained runs/density.pt --to src/holitom/assets/moving-digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from published_names import rename
from tiny import NAMES, tiny


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--model", choices=NAMES, default="llava")
    ask.add_argument("--trained", type=Path, default=Path("runs/density.pt"))
    ask.add_argument("--to", type=Path, required=True)
    a = ask.parse_args()
    saved = torch.load(a.trained, weights_only=False)
    student = tiny(a.model)
    model = student.build()
    model.load_state_dict(saved["model"])
    student.save(model.to(torch.bfloat16), a.to)
    weights = a.to / "model.safetensors"
    if a.model == "llava":  # Qwen3-VL's classes write the published names themselves
        rename(weights)
    print(f"{a.to}: {weights.stat().st_size / 1e6:.1f} MB, trained for {saved['step']} steps")


if __name__ == "__main__":
    main()
