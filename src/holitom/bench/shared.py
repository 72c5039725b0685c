"""One run of the vision tower for several methods, and for several questions about the same videos.

Benchmarks ask the same about the same videos under one method after another. What the tower makes of a video
does not depend on the method, so it need be worked out only once:

    shared = encode_once(model, inputs, methods)
    for method in methods:
        with method(model) as run:
            model.generate(**prompts, **shared.ask(run, rows))
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from holitom.contract import FrameMerging, Reuse
from holitom.errors import UnsupportedUsageError
from holitom.methods.base import Method
from holitom.models import adapter_for
from holitom.runtime.encoded import Encoded, carrying

if TYPE_CHECKING:
    from holitom.runtime.attach import Run


@dataclass(frozen=True)
class _Reads(Method):
    """Keeps everything, and reads in the tower whatever one of some methods needs."""

    importance: bool = False
    keys: bool = False
    shallow: bool = False
    frames: FrameMerging | None = None

    @property
    def needs_importance(self) -> bool:  # type: ignore[override]
        return self.importance

    @property
    def needs_keys(self) -> bool:  # type: ignore[override]
        return self.keys

    @property
    def needs_shallow(self) -> bool:  # type: ignore[override]
        return self.shallow

    @property
    def frame_merging(self) -> FrameMerging | None:
        return self.frames


@dataclass(frozen=True)
class SharedVideos:
    """What the vision tower made of some videos.

    Attributes:
        features: `pooler_output` of `get_video_features`: one entry a video.
        encoded: what merging needs of them; nothing is merged here.
    """

    features: Any
    encoded: Encoded

    def ask(self, run: Run | None, rows: Sequence[int]) -> dict[str, Any]:
        """What `generate` and `forward` take in the place of the videos' pixels.

        Args:
            run: of the method that is attached; None where none is.
            rows: for each video placeholder of the prompts, in reading order, the number of its video.
        """
        features: Any = [self.features[row] for row in rows]
        if isinstance(self.features, torch.Tensor):
            features = torch.stack(features)
        output: Any = BaseModelOutputWithPooling(pooler_output=features)
        if run is not None:
            encodings = [self.encoded.encodings[row] for row in rows]
            output = carrying(output, Encoded(run, encodings, self.encoded.vision, reuse=self.encoded.reuse))
        return {"mm_encoder_outputs": {"video": output}}


def run_of_tower(method: Method | None) -> tuple[Reuse | None, FrameMerging | None]:
    """What a run of the tower is told for `method`: methods that tell it the same can share one."""
    return (None, None) if method is None else (Reuse.of(method.reuse), method.frame_merging)


def encode_once(model: nn.Module, inputs: Mapping[str, Any], methods: Iterable[Method]) -> SharedVideos:
    """Run the vision tower on the videos in `inputs`, reading what any of `methods` needs.

    Args:
        model: to which nothing is attached.
        inputs: what the processor returned; only what `get_video_features` takes is looked at.
        methods: that the result is meant for.

    Raises:
        UnsupportedUsageError: a method is attached, `methods` want different things of the tower (see
            `run_of_tower`), or the model takes more from its tower than one tensor a video, or other than
            videos.
        UnsupportedModelError: no adapter knows the model.
    """
    methods = list(methods)
    runs = {run_of_tower(method) for method in methods} or {run_of_tower(None)}
    if len(runs) > 1:
        raise UnsupportedUsageError(
            "these methods reuse differently in the vision tower, or merge frames in it differently, so one "
            "run of it cannot be for all"
        )
    reuse, frames = runs.pop()
    reads = _Reads(
        reuse=reuse or False,
        frames=frames,
        shallow=any(method.needs_shallow for method in methods),
        importance=any(method.needs_importance for method in methods),
        keys=any(method.needs_keys for method in methods),
    )
    adapter = adapter_for(model)
    trunk: Any = adapter.trunk
    if adapter.modality != "video":
        raise UnsupportedUsageError(
            "encoding once for several methods is for models that encode videos; this one encodes images, "
            "and only a prompt tells which of them are frames"
        )
    taken = inspect.signature(trunk.get_video_features).parameters
    with reads(model):
        output = trunk.get_video_features(
            **{name: value for name, value in inputs.items() if name in taken}, return_dict=True
        )
    if getattr(output, "deepstack_features", None) is not None:
        raise UnsupportedUsageError("encoding once for several methods does not carry deepstack features")
    return SharedVideos(output.pooler_output, output.holitom)
