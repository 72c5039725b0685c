"""`run.last`: what was merged where, how long it took, what the cache holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.tiny import Tiny, image, video
from torch import Tensor
from transformers import DynamicCache

from holitom import HoliTom, Method

STAGED = EveryOther(layers=(1, 3))


def cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_tokens_by_stage(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2 <video>", "<video> w3", videos=[video(seed=s) for s in range(3)])
    with STAGED(tiny.model) as run:
        tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert run.last is not None
    first, second, third = run.last.videos
    assert [first.row, second.row, third.row] == [0, 0, 1]
    assert (third.frames, third.tokens_per_step, third.tokens, third.sent) == (4, 16, 64, 33)
    assert third.stages == {"every other": 32, "layer 1": 16, "layer 3": 8}  # and its newline each time
    # The row ends in the second video's newline, which asks: 33 + 32 compete, then 33.
    assert len(first.survivors(1)) + len(second.survivors(1)) == 33
    assert len(first.survivors(3)) + len(second.survivors(3)) == 17


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}])
def test_beams_are_no_further_videos(tiny: Tiny, settings: dict[str, Any]) -> None:
    inputs = tiny.inputs("w1 <video> w2", "<video> w3", videos=[video(seed=1), video(seed=2)])
    with STAGED(tiny.model) as run:
        tiny.model.generate(**inputs, max_new_tokens=2, **settings)
    assert run.last is not None
    assert [v.row for v in run.last.videos] == [0, 1]
    for one in run.last.videos:
        assert [len(one.survivors(layer)) for layer in (1, 3)] == [17, 9]
        first, second = (int((one.place[one.survivors(layer)] >= 0).sum()) for layer in (1, 3))
        assert one.stages == {"every other": 32, "layer 1": first, "layer 3": second}
        assert {17 - first, 9 - second} <= {0, 1}  # its newline stays or goes, and is none of them


@dataclass(frozen=True)
class Every:
    """Keeps tokens `start, start + 2, ...` of a row."""

    layer: int
    start: int
    own_attention = False

    def keep(self, visual: int) -> int:
        return max(1, len(range(self.start, visual, 2)))

    def __call__(self, hidden: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.arange(self.start, len(hidden), 2)
        return kept, hidden[kept]


@dataclass(frozen=True)
class ThinnedTwice(Method):
    """Sends every token; inside, every other one stays, twice."""

    retain_ratio: float = 1.0

    def inner(self, num_layers: int) -> tuple[Any, ...]:
        return (Every(1, start=1), Every(3, start=0))


@pytest.mark.parametrize("beams", [1, 2])
def test_which_tokens_survive_inside(tiny: Tiny, beams: int) -> None:
    inputs = tiny.inputs("w1 <video> w2 <video> w3", "<video> w3", videos=[video(seed=s) for s in range(3)])
    with ThinnedTwice()(tiny.model) as run:
        tiny.model.generate(**inputs, max_new_tokens=2, num_beams=beams)
    assert run.last is not None
    first, second, third = run.last.videos
    # Row 0 has tokens 0..64 of the first video and its newline, then 65..129 of the second.
    assert first.survivors(1).tolist() == third.survivors(1).tolist() == list(range(1, 65, 2))
    assert second.survivors(1).tolist() == list(range(0, 65, 2))
    assert first.survivors(3).tolist() == third.survivors(3).tolist() == list(range(1, 65, 4))
    assert second.survivors(3).tolist() == list(range(0, 65, 4))
    assert second.stages == {"layer 1": 32, "layer 3": 16}  # and the newline
    assert second.place is not None
    assert second.place.tolist() == [*range(64), -1]  # the newline stays to the end


def test_holitoms_stages_and_segments(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    method = HoliTom(retain_ratio=0.25, similarity_threshold=0.8)
    with method(tiny.model) as run:
        tiny.model.generate(**inputs, max_new_tokens=2)
    assert run.last is not None
    (report,) = run.last.videos
    assert list(report.stages) == ["temporal", "spatial", "layer 3"]
    assert report.merged == report.stages["spatial"] == report.sent - 1
    assert report.segments[0][0] == 0
    assert report.segments[-1][1] == 3
    assert int(report.size.sum()) <= report.tokens


@pytest.mark.parametrize("method", [Method(1.0), EveryOther(), STAGED], ids=["all", "outer", "staged"])
def test_cache_bytes_and_seconds(tiny: Tiny, method: Method) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    full, cache = DynamicCache(config=tiny.model.config), DynamicCache(config=tiny.model.config)
    tiny.model.generate(**inputs, past_key_values=full, max_new_tokens=4, do_sample=False)
    with method(tiny.model) as run:
        assert run.last is None
        tiny.model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert run.last is not None
    assert run.last.kv_bytes == cache_bytes(cache)
    assert run.last.kv_bytes_full == cache_bytes(full)
    assert set(run.last.seconds) == {"vision", "merging", "prefill", "decoding"}
    assert all(second > 0 for second in run.last.seconds.values())


def test_decoding_without_a_cache_is_timed_too(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with STAGED(tiny.model) as run:
        tiny.model.generate(**inputs, max_new_tokens=4, use_cache=False)
    assert run.last is not None
    assert run.last.seconds["decoding"] > run.last.seconds["prefill"] > 0
    assert run.last.kv_bytes == 0


def test_a_report_describes_the_latest_run_with_videos(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with STAGED(tiny.model) as run:
        tiny.model.generate(**inputs, max_new_tokens=2)
        first = run.last
        tiny.model.generate(**tiny.inputs("w1 w2"), max_new_tokens=2)
        tiny.model.generate(**tiny.inputs("w1 <image>", images=[image()]), max_new_tokens=2)
        assert run.last is first
        tiny.model.generate(**tiny.inputs("<video> w1", videos=[video(frames=2)]), max_new_tokens=2)
    assert run.last is not None
    assert run.last is not first
    assert run.last.videos[0].frames == 2


def test_a_report_prints_as_text(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with STAGED(tiny.model) as run, torch.no_grad():
        tiny.model(**inputs)
    text = str(run.last)
    assert "4 frames, 16 tokens a frame" in text
    assert "64 -> 32 (every other) -> 17 (layer 1) -> 9 (layer 3)" in text
    assert f"KV cache: {run.last.kv_bytes / 1e6:.2f} of {run.last.kv_bytes_full / 1e6:.2f} MB" in text
    assert "prefill" in text
