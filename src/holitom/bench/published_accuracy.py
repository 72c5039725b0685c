"""Accuracy that papers print of token reduction on large models, each table with its source.

None of these figures was measured with this library. Benchmarks, models, frames and ports differ from table
to table, so figures of two tables are not comparable, and none is comparable with MovingDigits-QA.
"""

from __future__ import annotations

from typing import NamedTuple

Figure = tuple[float | None, float | None]
"""Mean accuracy over the benchmarks, and its share of full tokens', in percent; None where not printed."""


class PublishedTable(NamedTuple):
    """One table.

    Attributes:
        model: the model and its frames.
        benchmarks: the benchmarks that the mean is over.
        full: mean accuracy with full tokens, in percent.
        source: the paper that prints the table, and whose runs they are.
        budgets: heads of the columns.
        rows: for each method, a figure for each column; None where the paper has none.
    """

    model: str
    benchmarks: str
    full: str
    source: str
    budgets: tuple[str, ...]
    rows: dict[str, tuple[Figure | None, ...]]


PUBLISHED_ACCURACY = (
    PublishedTable(
        model="LLaVA-OneVision-7B, 32 frames x 196 tokens",
        benchmarks="MVBench, EgoSchema, LongVideoBench, VideoMME",
        full="58.4",
        source="SimpleCluster's paper, which partly ran the baselines itself (A800, LMMs-Eval); FlashVID's "
        "row is of its own paper",
        budgets=("25%", "15%", "10%", "5%", "1%"),
        rows={
            "SimpleCluster": ((58.6, 100.3), (57.9, 99.1), (57.3, 98.1), (55.7, 95.3), (51.6, 88.3)),
            "FlashVID": ((58.6, 100.3), (58.5, 100.2), (57.9, 99.1), None, None),
            "AOT": ((58.5, 100.0), (57.7, 98.8), (57.0, 97.6), (52.8, 90.5), None),
            "EarlyTom": ((58.2, 99.7), (57.3, 98.1), (56.2, 96.2), (52.9, 90.6), (45.7, 78.2)),
            "FastVID": ((57.3, 98.1), (56.8, 97.3), (56.5, 96.7), (54.1, 92.7), None),
            "spatial grid sampling": (None, None, (55.6, 95.2), None, None),
            "spatial average pooling": (None, None, (54.8, 93.8), None, None),
        },
    ),
    PublishedTable(
        model="LLaVA-OneVision-7B, 32 frames x 196 tokens",
        benchmarks="MVBench, EgoSchema, LongVideoBench, VideoMME",
        full="58.4",
        source="HoliTom's paper, Table 1 (arXiv 2505.21334)",
        budgets=("25%", "20%", "15%", "10%"),
        rows={
            "HoliTom": ((58.8, None), (58.8, None), (58.2, None), (57.9, None)),
            "HoliTom w/o M": ((58.7, None), (58.5, None), (58.5, None), (57.8, None)),
            "VisionZip": ((58.2, None), None, None, (53.5, None)),
            "PruneVid": ((57.6, None), None, None, (56.6, None)),
            "DyCoke": ((54.1, None), None, None, None),
        },
    ),
    PublishedTable(
        model="LLaVA-OneVision-7B",
        benchmarks="MVBench, EgoSchema, LongVideoBench, VideoMME, MLVU",
        full="56.3",
        source="the paper of unified spatio-temporal compression (Unified)",
        budgets=("10%", "5%", "2%"),
        rows={
            "Unified": ((None, 98.4), (53.7, 95.4), (50.7, 90.1)),
            "Unified without its inner stage": (None, (53.4, None), (50.4, None)),
            "HoliTom": (None, (52.9, None), (49.4, None)),
            "FastVID": (None, None, (46.9, None)),
        },
    ),
    PublishedTable(
        model="Qwen3-VL-8B-Instruct",
        benchmarks="MVBench, LongVideoBench, MLVU, VideoMME",
        full="64.2 with 32 frames, 67.0 with 64",
        source="GleanVID's paper, with its own ports of the others",
        budgets=("32 frames, 25%", "32 frames, 15%", "64 frames, 25%", "64 frames, 15%"),
        rows={
            "GleanVID": ((63.3, 98.6), (62.3, 97.0), (65.2, 97.3), (64.3, 96.0)),
            "V-CAST": ((62.9, 98.0), (61.1, 95.2), (64.8, 96.7), (63.5, 94.8)),
            "FlashVID": ((62.6, 97.5), (61.4, 95.6), None, None),
            "VidCom2": ((62.0, 96.6), (59.4, 92.5), (64.0, 95.5), (61.2, 91.3)),
            "FastVID": ((61.8, 96.3), (60.1, 93.6), (63.6, 94.9), (62.1, 92.7)),
            "HoliTom": ((60.2, 93.8), (58.4, 91.0), (62.5, 93.3), (60.9, 90.9)),
        },
    ),
)
