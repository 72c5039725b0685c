"""Put a trained checkpoint into the package: bf16 weights in the Hub's key layout, processor and all.

python tools/export_model.py --language runs/language.pt --to src/holitom/assets/moving-digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tiny_llava
import torch
from safetensors.torch import load_file, save_file

TOWER, PUBLISHED = "vision_tower.", "vision_tower.vision_model."


def published(name: str) -> str:
    """transformers 5 writes `vision_tower.x`; published checkpoints have `vision_model` in between."""
    inside = name.startswith(TOWER) and not name.startswith(PUBLISHED)
    return name.replace(TOWER, PUBLISHED, 1) if inside else name


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
    renamed = {published(k): v.contiguous() for k, v in load_file(weights).items()}
    save_file(renamed, weights, metadata={"format": "pt"})
    print(f"{a.to}: {weights.stat().st_size / 1e6:.1f} MB, trained for {saved['step']} steps")


if __name__ == "__main__":
    main()
