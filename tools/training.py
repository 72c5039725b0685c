"""What the training scripts share: an optimizer with float32 masters, attention that is fast on a CPU."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PRECISION = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
"""What is computed in: bfloat16 where the processor multiplies it; elsewhere it takes forty times as long."""


class MasterOptimizer:
    """Muon on hidden matrices and AdamW on the rest, over float32 masters of the parameters.

    Muon's own steps are in bfloat16, so where `PRECISION` is float32 AdamW has the matrices too, at the rate
    of the rest.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], decay: float = 0.02):
        self.params = [*matrices]
        split = len(self.params) if torch.bfloat16 == PRECISION else 0
        self.params += others
        self.masters = [p.detach().float().clone().requires_grad_() for p in self.params]
        hidden, rest = self.masters[:split], self.masters[split:]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        ]
        if hidden:
            self.optimizers.append(
                torch.optim.Muon(hidden, lr=1.0, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, rate: float, matrix_gain: float = 1.0, clip: float = 1.0) -> float:
        """Apply the gradients at learning rate `rate`, Muon's times `matrix_gain`; returns their norm."""
        for param, master in zip(self.params, self.masters, strict=True):
            master.grad = torch.zeros_like(master) if param.grad is None else param.grad.float()
            param.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters, clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * (matrix_gain if isinstance(optimizer, torch.optim.Muon) else 1.0)
            optimizer.step()
        self.publish()
        return float(norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model's own parameters."""
        for param, master in zip(self.params, self.masters, strict=True):
            param.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        return {
            "masters": [m.detach() for m in self.masters],
            "optimizers": [o.state_dict() for o in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for master, saved in zip(self.masters, state["masters"], strict=True):
                master.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.publish()

    def float32(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state dict with every trained parameter in full precision."""
        precise = {id(p): m.detach() for p, m in zip(self.params, self.masters, strict=True)}
        names = {n: precise[id(p)] for n, p in model.named_parameters() if id(p) in precise}
        return {n: names.get(n, t.float()) for n, t in model.state_dict().items()}


def cosine(step: int, steps: int, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then a half cosine down to `floor`."""
    progress = min(1.0, step / steps)
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write so that a killed run leaves either the old file or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def dense_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Plain matrix products: for short rows on a CPU faster than the fused kernel's backward."""
    scores = torch.matmul(query * options["scaling"], key.transpose(-1, -2))
    return torch.matmul(scores.softmax(-1), value).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register("dense", dense_attention)
