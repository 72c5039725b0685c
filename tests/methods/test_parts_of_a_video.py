"""Long and wide videos are merged in parts; how large a part is changes nothing."""

from __future__ import annotations

import pytest
import torch
from support.videos import clip

from holitom.methods import METHODS, get_method
from holitom.ops import blocks, clustering, kmeans, pairs, spans


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_parts_of_any_size_give_the_same_tokens(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = clip(12, 16, width=32, change=0.4, seed=seed)
    method = get_method(name, retain_ratio=0.3)
    whole = method.merge(video)
    small = {
        blocks: {"CACHED": 600},
        clustering: {"WORKSPACE": 600, "COSTLY": 0},
        kmeans: {"WORKSPACE": 600},
        pairs: {"WORKSPACE": 600, "WIDE": 1, "BANDED": 0, "BAND": 4},
        spans: {"WORKSPACE": 600, "SOLVED": 6},
    }
    for module, values in small.items():
        for setting, value in values.items():
            monkeypatch.setattr(module, setting, value)
    for held in (pairs.WHOLE, 0):
        monkeypatch.setattr(pairs, "WHOLE", held)
        parts = method.merge(video)
        for field in ("frame", "position", "size"):
            assert torch.equal(getattr(parts, field), getattr(whole, field))
        torch.testing.assert_close(parts.features, whole.features, atol=1e-5, rtol=0)
