"""LLaVA-Video's order: frames, rows, a newline after every row that has tokens."""

from __future__ import annotations

import numpy as np
import torch

from holitom.models.newlines import grid_order
from holitom.tokens import MergedTokens


def test_newlines_follow_the_rows_that_have_tokens() -> None:
    rng = np.random.default_rng(0)
    rows, columns, newline = 3, 4, torch.tensor([7.0, 7.0])
    for count in range(1, 25):
        at = torch.from_numpy(rng.permutation(2 * rows * columns)[:count])
        features = torch.from_numpy(rng.normal(size=(count, 2)).astype(np.float32))
        merged = MergedTokens(
            features=features,
            frame=at // (rows * columns),
            position=at % (rows * columns),
            size=at + 1,
            segments=[(0, 1)],
            stages={},
        )
        expected = []
        for frame in range(2):
            for row in range(rows):
                here = []
                for column in range(columns):
                    place = (frame * rows + row) * columns + column
                    found = (at == place).nonzero()[:, 0].tolist()
                    here += [(*features[i].tolist(), frame, row * columns + column, place + 1) for i in found]
                expected += [*here, (7.0, 7.0, frame, -1, 0)] if here else []
        laid = grid_order(merged, (rows, columns), newline)
        columns_of = zip(laid.features.tolist(), laid.frame, laid.position, laid.size, strict=True)
        assert [(*f, int(t), int(p), int(s)) for f, t, p, s in columns_of] == expected
