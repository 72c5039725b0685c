"""One run of the vision tower for several methods, and for several questions about the same videos.

Benchmarks ask the same questions about the same videos with one method after another. The tower's output does
not depend on the method, so it is computed once:

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
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from holitom.contract import FrameMerging, Reuse
from holitom.errors import UnsupportedUsageError
from holitom.methods.base import Method
from holitom.models import adapter_for
from holitom.runtime.encoded import Encoded
from holitom.runtime.encoder_output import carrying

if TYPE_CHECKING:
    from holitom.runtime.attach import Run


@dataclass(frozen=True)
class _Reads(Method):
    """A method that keeps every token, and has the tower read all that some other methods need."""

    needs_importance: bool = False  # type: ignore[misc]  # a class variable of other methods
    needs_keys: bool = False  # type: ignore[misc]
    needs_shallow: bool = False  # type: ignore[misc]
    frames: FrameMerging | None = None

    @property
    def frame_merging(self) -> FrameMerging | None:
        return self.frames


@dataclass(frozen=True)
class SharedVideos:
    """Some videos as the vision tower encoded them.

    Attributes:
        features: `pooler_output` of `get_video_features`: one entry for each video.
        encoded: the same videos' tokens, importance and keys, from which a method merges.
        deep: `deepstack_features`: for each layer that DeepStack reads, one entry for each video; else empty.
    """

    features: Any
    encoded: Encoded
    deep: Sequence[Sequence[torch.Tensor]] = ()

    def ask(self, run: Run | None, rows: Sequence[int]) -> dict[str, Any]:
        """Make the arguments that `generate` and `forward` take instead of the videos' pixels.

        Args:
            run: run of the attached method; None: no method is attached.
            rows: for each video of the prompts, in reading order, its number among the encoded videos.
        """
        features: Any = [self.features[row] for row in rows]
        if isinstance(self.features, torch.Tensor):
            features = torch.stack(features)
        output: Any = BaseModelOutputWithPooling(pooler_output=features)
        if self.deep:
            deep: Any = [[of_layer[row] for row in rows] for of_layer in self.deep]
            output = BaseModelOutputWithDeepstackFeatures(pooler_output=features, deepstack_features=deep)
        if run is not None:
            encodings = [self.encoded.encodings[row] for row in rows]
            output = carrying(output, Encoded(run, encodings, self.encoded.vision, reuse=self.encoded.reuse))
        return {"mm_encoder_outputs": {"video": output}}


TowerRun = tuple[Reuse | None, FrameMerging | None]
"""Settings of one run of the vision tower: methods with the same can share a run."""


def run_of_tower(method: Method | None) -> TowerRun:
    """Settings of the run of the vision tower that `method` needs; None: the stock tower's."""
    return (None, None) if method is None else (Reuse.of(method.reuse), method.frame_merging)


def encode_once(model: nn.Module, inputs: Mapping[str, Any], methods: Iterable[Method]) -> SharedVideos:
    """Run the vision tower on the videos in `inputs`, reading all that any of `methods` needs.

    Args:
        model: a model without an attached method.
        inputs: the processor's output; only arguments of `get_video_features` are used.
        methods: methods that will merge these videos.

    Raises:
        UnsupportedUsageError: a method is attached, `methods` need different runs of the tower (see
            `run_of_tower`), or the tower encodes images.
        UnsupportedModelError: there is no adapter for the model.
    """
    methods = list(methods)
    runs = {run_of_tower(method) for method in methods} or {run_of_tower(None)}
    if len(runs) > 1:
        raise UnsupportedUsageError(
            "these methods reuse differently in the vision tower, or merge frames in it differently, so they "
            "cannot share one run of it"
        )
    reuse, frames = runs.pop()
    reads = _Reads(
        reuse=reuse or False,
        frames=frames,
        needs_shallow=any(method.needs_shallow for method in methods),
        needs_importance=any(method.needs_importance for method in methods),
        needs_keys=any(method.needs_keys for method in methods),
        tower_batch=min((m.tower_batch for m in methods if m.tower_batch is not None), default=None),
    )
    adapter = adapter_for(model)
    trunk: Any = adapter.trunk
    if adapter.modality != "video":
        raise UnsupportedUsageError(
            "encoding once for several methods is for models that encode videos; this one encodes images, "
            "and only a prompt tells which of them are frames"
        )
    arguments = encoder_arguments(adapter, inputs)
    with reads(model):
        output = trunk.get_video_features(**arguments, return_dict=True)
    deep = getattr(output, "deepstack_features", None) or ()
    return SharedVideos(output.pooler_output, output.holitom, deep)


def encoder_arguments(adapter: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Select from the processor's output the arguments of the encoder of `adapter`'s trunk."""
    taken = inspect.signature(getattr(adapter.trunk, adapter.encoder)).parameters
    return {name: value for name, value in inputs.items() if name in taken}
