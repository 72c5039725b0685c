"""Whole frames that merge between layers of the tower, against every frame computed in every layer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from support.families import Small, small
from support.reference import Looks
from support.towers import Encoder, features, mixed, still
from torch import Tensor
from torch.testing import assert_close

from holitom import HoliTom, Method, UnsupportedModelError, UnsupportedUsageError
from holitom.contract import FrameMerging
from holitom.errors import SettingsError
from holitom.methods import EarlyTom
from holitom.models import adapter_for
from holitom.ops.frame_groups import merge_frames
from holitom.tokens import VideoTokens
from holitom.tower import MergedFrames

BATCHED = ["llava-onevision", "llava-video", "llava-next-video", "internvl", "smolvlm2"]
ALIKE = FrameMerging((0, 1), segment_threshold=-1.0, max_frames=9)
each = pytest.mark.parametrize("name", BATCHED)


def moving(own: Small) -> np.ndarray[Any, Any]:
    """A still scene in which a bar moves, faster and faster: all frames alike, no two the same."""
    video = still(own)
    for frame in range(len(video)):
        at = frame * (frame + 1) // 2
        video[frame, at : at + 5, :] = 255 - video[frame, at : at + 5, :]
    return video


@dataclass(frozen=True)
class Sees(Looks):
    """Keeps everything of a tower whose frames merge, and shows what it saw."""

    merging: FrameMerging | None = None

    @property
    def frame_merging(self) -> FrameMerging | None:
        return self.merging


def seen(own: Small, merging: FrameMerging | None, *videos: Any) -> list[VideoTokens]:
    looks = Sees(merging=merging)
    inputs = own.inputs(*["w1 <video> w2"] * len(videos), videos=list(videos))
    with torch.no_grad(), looks(own.model):
        own.model(**inputs)
    return looks.seen


@dataclass
class Slow:
    """A stock tower whose every layer computes every frame, over frames that repeat the one they are part of.

    Attributes:
        left: for each video the frames that are left, among those of the batch.
        importance: of every frame, from the last layer behind which frames merge.
    """

    encoder: Encoder
    layers: tuple[int, ...]
    at: list[list[int]]
    left: list[list[int]] = field(default_factory=list)
    importance: Tensor | None = None

    @torch.no_grad()
    def run(self, *videos: Any) -> list[Tensor]:
        adapter = self.encoder.adapter
        reads = adapter.reading(self.layers[-1])
        self.left = [list(at) for at in self.at]
        hooks = [
            adapter.vision_layers[layer].register_forward_hook(self._leave(layer), prepend=True)
            for layer in self.layers
        ]

        def read(module: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.importance = reads.importance({"hidden_states": hidden})

        hooks.append(reads.vision_attention.register_forward_pre_hook(read, with_kwargs=True))
        try:
            return self.encoder.stock(*videos)
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self, layer: int) -> Any:
        def leave(module: Any, args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for video, (at, left) in enumerate(zip(self.at, self.left, strict=True)):
                found = merge_frames(
                    hidden[left],
                    segment_threshold=ALIKE.segment_threshold,
                    max_frames=ALIKE.max_frames,
                    momentum=ALIKE.momentum,
                )
                weights = torch.from_numpy(found.weights).float()
                stays = [left[source] for source in found.source]
                owner = [max(s for s in range(len(stays)) if stays[s] <= frame) for frame in at]
                hidden[at] = torch.einsum("ij,j...->i...", weights, hidden[left])[owner]
                if layer == self.layers[-1]:
                    assert self.importance is not None
                    self.importance[at] = (weights @ self.importance[left])[owner]
                self.left[video] = stays
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return leave


@each
def test_frames_that_are_left_are_computed_as_if_all_were(name: str) -> None:
    own = small(name)
    encoder = Encoder(own)
    video = moving(own)
    layers = ALIKE.layers if name != "llava-next-video" else (0, 1)
    slow = Slow(encoder, layers, [list(range(len(video)))])
    wanted = slow.run(video)[0]
    (found,) = seen(own, ALIKE, video)
    assert found.left == tuple(slow.left[0])
    assert 2 <= len(found.left) < len(video)
    # the last two frames stay: the group's last, and the one that only the middle could take in
    assert_close(features_of(found), sent_features(encoder, wanted, found), atol=1e-4, rtol=1e-4)
    assert slow.importance is not None
    pooled = encoder.adapter.pool(slow.importance[..., None])[..., 0]
    assert_close(found.importance, pooled.view_as(found.importance), atol=1e-5, rtol=1e-4)


def features_of(video: VideoTokens) -> Tensor:
    return video.features.flatten(0, 1)


def sent_features(encoder: Encoder, pooled: Tensor, video: VideoTokens) -> Tensor:
    """Features that a stock call returned, without separators."""
    adapter: Any = encoder.adapter
    if hasattr(adapter, "frame_grid"):
        pooled = adapter.features(pooled.view(1, -1, pooled.shape[-1]) if pooled.dim() == 2 else pooled)
    return pooled.reshape(-1, video.features.shape[-1])


@each
def test_two_videos_merge_apart(name: str) -> None:
    own = small(name)
    found = seen(own, ALIKE, moving(own), mixed(own))
    alone = [seen(own, ALIKE, video)[0] for video in (moving(own), mixed(own))]
    assert [video.left for video in found] == [video.left for video in alone]
    for video, other in zip(found, alone, strict=True):
        assert_close(video.features, other.features, atol=1e-4, rtol=1e-4)
        assert_close(video.importance, other.importance, atol=1e-5, rtol=1e-4)


def test_an_image_beside_a_video_stays() -> None:
    own = small("internvl")
    video, image = moving(own), own.image()
    inputs = own.inputs("w1 <image> w2 <video> w3", videos=[video], images=[image])
    looks = Sees(merging=ALIKE)
    with torch.no_grad(), looks(own.model):
        own.model(**inputs)
    (alone,) = seen(own, ALIKE, video)
    assert looks.seen[0].left == alone.left
    assert_close(looks.seen[0].features, alone.features, atol=1e-4, rtol=1e-4)


@each
def test_where_no_frames_merge_the_tower_is_the_stock_one(name: str) -> None:
    own = small(name)
    apart = FrameMerging((0,), segment_threshold=1.0, max_frames=2)
    (found,), (stock,) = seen(own, apart, mixed(own)), seen(own, None, mixed(own))
    assert found.left is None
    assert torch.equal(found.features, stock.features)


@each
def test_later_layers_work_on_what_is_left(name: str) -> None:
    own = small(name)
    adapter = adapter_for(own.model)
    video = moving(own)
    counts: list[int] = []

    def entered(module: Any, args: Any, kwargs: Any) -> None:
        counts.append(len(args[0] if args else kwargs["hidden_states"]))

    attention = MergedFrames(adapter, ALIKE)
    attention.detach()
    hook = attention.tower.attentions[1].register_forward_pre_hook(entered, with_kwargs=True)
    try:
        seen(own, ALIKE, video)
    finally:
        hook.remove()
    assert counts[0] < len(video)


@each
def test_earlytom_sends_tokens_of_the_frames_that_are_left(name: str) -> None:
    own = small(name)
    video = moving(own)
    method = EarlyTom(
        0.5, segment_threshold=-1.0, max_frames=9, in_tower=True, tower_layers=(0, 1), inner_drop=None
    )
    inputs = own.inputs("w1 <video> w2", videos=[video])
    with torch.no_grad(), method(own.model) as run:
        own.model(**inputs)
    (found,) = seen(own, ALIKE, video)
    assert found.left is not None
    wanted = method.merge(found)
    (report,) = run.last.videos
    tokens = found.features.shape[1]
    assert report.outer == {"tower": len(found.left) * tokens, "spatial": len(wanted.frame)}
    assert torch.equal(report.frame, wanted.frame)
    assert set(wanted.frame.tolist()) <= set(found.left)
    assert abs(len(wanted.frame) - 0.5 * len(video) * tokens) <= len(video)


def test_detaching_leaves_nothing_and_the_tower_is_the_stock_one() -> None:
    own = small("llava-onevision")
    encoder = Encoder(own)
    stock = encoder.stock(moving(own))
    before = {name: dict(module._forward_hooks) for name, module in own.model.named_modules()}
    handle = EarlyTom(in_tower=True, segment_threshold=-1.0).attach(own.model)
    handle.detach()
    assert before == {name: dict(module._forward_hooks) for name, module in own.model.named_modules()}
    for one, other in zip(encoder.stock(moving(own)), stock, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_checkpointing_and_all_layers_states_are_refused() -> None:
    """The frames did not merge, and nothing said so. A prompt without a video is the stock model's."""
    own = small("llava-onevision")
    encoder = Encoder(own)
    method = EarlyTom(0.5, in_tower=True).without_inner()
    inputs, text = own.inputs("w1 <video> w2", videos=[moving(own)]), own.inputs("w1 w2")
    arguments, ids = encoder.arguments(moving(own))
    tower = MergedFrames(encoder.adapter, ALIKE)
    try:
        with (
            pytest.raises(UnsupportedUsageError, match="output_hidden_states asks"),
            tower.call({**arguments, "output_hidden_states": True}, ids),
        ):
            pass
    finally:
        tower.detach()
    own.model.train().gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with method(own.model):
            assert own.model(**text).logits.isfinite().all()
            with pytest.raises(UnsupportedUsageError, match="gradient checkpointing"):
                own.model(**inputs)
    finally:
        own.model.eval().gradient_checkpointing_disable()


def test_two_threads_do_not_meet() -> None:
    own = small("llava-onevision")
    encoder = Encoder(own)
    videos = [moving(own), mixed(own), still(own)]
    tower = MergedFrames(encoder.adapter, ALIKE)

    @torch.no_grad()
    def run(video: Any) -> list[Tensor]:
        arguments, ids = encoder.arguments(video)
        with tower.call(arguments, ids):
            return features(encoder.encode(**arguments, return_dict=True))

    wrong: list[int] = []
    try:
        expected = [run(video) for video in videos[:2]] + [encoder.stock(videos[2])]

        def check(number: int) -> None:
            for _ in range(5):
                found = run(videos[number]) if number < 2 else encoder.stock(videos[2])
                if not all(torch.equal(a, b) for a, b in zip(found, expected[number], strict=True)):
                    wrong.append(number)

        threads = [threading.Thread(target=check, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        tower.detach()
    assert not wrong


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen3-vl", "videollama3", "minicpm-v-4.6"])
def test_towers_whose_frames_are_one_sequence_are_refused(name: str) -> None:
    own = small(name)
    with pytest.raises(UnsupportedModelError, match=r"frames are a batch .*leave in_tower off"):
        EarlyTom(in_tower=True).attach(own.model)
    HoliTom().attach(own.model).detach()  # nothing was left attached


def test_layers_that_the_tower_does_not_have() -> None:
    own = small("llava-next-video")  # whose features are those of the last layer but one
    depth = len(adapter_for(own.model).vision_layers) - 1
    with pytest.raises(SettingsError, match=rf"tower_layers must be in 0..{depth - 1}"):
        EarlyTom(in_tower=True, tower_layers=(depth,)).attach(own.model)


def test_the_papers_layers_of_the_papers_tower() -> None:
    from holitom.tower.merged_frames import _behind

    assert _behind(FrameMerging(), 26) == (10, 21, 23)
    assert _behind(FrameMerging(), 1) == (0,)
    for depth in range(1, 50):
        layers = _behind(FrameMerging(), depth)
        assert 0 <= layers[0] <= layers[-1] < depth


def test_reuse_and_merging_are_not_both() -> None:
    with pytest.raises(SettingsError, match="set in_tower=False or reuse=False"):
        EarlyTom(in_tower=True, reuse=True)
    assert Method(1.0).frame_merging is None


@pytest.mark.parametrize("name", ["llava-onevision", "internvl"])
def test_a_row_of_a_batch_answers_as_the_row_alone(name: str) -> None:
    own = small(name)
    method = EarlyTom(0.5, segment_threshold=-1.0, in_tower=True, tower_layers=(0, 1))
    videos, prompts = [moving(own), mixed(own)], ["w1 <video> w2 w3", "<video> w9 w8 w7 w6"]
    settings = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": own.unspoken}
    with method(own.model):
        inputs = own.inputs(*prompts, videos=videos)
        both = own.model.generate(**inputs, **settings)
        for row, (prompt, video) in enumerate(zip(prompts, videos, strict=True)):
            alone = own.inputs(prompt, videos=[video])
            answer = own.model.generate(**alone, **settings)
            assert torch.equal(both[row, -3:], answer[0, -3:])
