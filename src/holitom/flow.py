"""Answer a question about a video file, reading and encoding batches of frames at the same time.

One thread decodes the file and resizes each frame as the processor does. Meanwhile the frames that were read
go through the rest of the processor and the vision tower, batch after batch, and only the tower's output is
kept of them. It is passed to the model as transformers' own `mm_encoder_outputs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from holitom.ask import Answer, answered, ask
from holitom.contract import Reuse
from holitom.cores import Cores
from holitom.models import adapter_for
from holitom.models.base import Adapter
from holitom.models.parts import Parts
from holitom.prompts import asking, inputs_of, prompt, prompts
from holitom.runtime import attached
from holitom.video import Progress, Sampling, Video, opened_source, read
from holitom.video.fitting import fit_of
from holitom.video.opening import Opened
from holitom.video.streaming import AnewError, Stream, stream_of

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from holitom.methods import Method


def ask_file(
    model: Any,
    processor: Any,
    path: str | os.PathLike[str] | Opened,
    question: str,
    method: Method,
    sampling: Sampling | None = None,
    max_new_tokens: int = 64,
    streamer: BaseStreamer | None = None,
    progress: Progress | None = None,
) -> tuple[Answer, Video]:
    """Answer a question about a video file greedily, with `method` attached.

    Decoding, preprocessing and the vision tower overlap, and memory holds one batch of frames for each (the
    method's `tower_batch`, else 32 frames). Where that is not possible (docs/video.md says where) the whole
    video is read, preprocessed and encoded, one after the other; the answer is the same.

    Args:
        model: a model of a supported family.
        processor: the model's own processor.
        path: path of the file, or what `holitom.video.opening.open_video` made of it.
        question: the question, plain text.
        method: a method of `holitom.methods`.
        sampling: the frames to sample. Default: 32, evenly spread.
        max_new_tokens: longest answer, in tokens.
        streamer: transformers' own; it receives tokens as they are generated.
        progress: called by the reading thread with the number of frames decoded and the number to decode.

    Returns:
        The answer, and the sampled frames, in the size that went into the model.

    Raises:
        SettingsError: the question contains one of the model's placeholders.
        VideoError: the file cannot be read.
        ModelError: the processor takes no videos or has no chat template.
    """
    sampling, conversation = sampling or Sampling(), asking(processor, question)
    fit = fit_of(processor)
    cores = Cores.of(model.device)
    source = opened_source(path, sampling, progress=progress, fit=fit)
    stream = stream_of(source, fit, progress, cores.decoder) if _flows(method) else None
    flowing = None if stream is None else Flowing.of(adapter_for(model), processor, stream, conversation)
    if stream is not None and flowing is not None:
        try:
            with stream, torch.inference_mode(), attached(method, model) as run:
                with cores.shared(lambda: stream.reading) as share:
                    parts = flowing.on(model.device, model.dtype, share)
                    encoded = run.encode(flowing.given, parts)
                inputs = flowing.inputs.to(model.device, model.dtype)
                inputs["mm_encoder_outputs"] = {flowing.modality: encoded}
                return answered(model, processor, inputs, run, max_new_tokens, streamer), stream.video
        except AnewError:
            pass
    video = read(source, progress, fit)
    inputs = prompt(processor, video, question)
    return ask(model, processor, inputs, method, max_new_tokens, streamer), video


def _flows(method: Method) -> bool:
    """Whether the tower can encode a batch of frames without the others."""
    return Reuse.of(method.reuse) is None and method.frame_merging is None


@dataclass(frozen=True)
class Flowing:
    """A question about a video whose frames are still being read.

    Attributes:
        inputs: the model's inputs without the pixels.
        given: arguments of the encoder for all frames, by name; pixels are on the meta device.
        modality: the adapter's modality of the encoder, "video" or "image".
        parts: the arguments `given` in parts.
        made: makes the processor's inputs for frames `first` to `last - 1` alone.
        frames: number of frames.
        each: number of frames that the tower takes together.
    """

    inputs: Any
    given: dict[str, Any]
    modality: str
    parts: Parts
    made: Callable[[int, int], Any]
    frames: int
    each: int

    @classmethod
    def of(
        cls, adapter: Adapter, processor: Any, stream: Stream, conversation: list[dict[str, Any]]
    ) -> Flowing | None:
        """Make one; None where the processor's prompt depends on pixels, or the tower cannot take parts."""
        frames, height, width, channels = stream.shape
        each = adapter.frames_per_step
        if frames < each:  # the whole video is padded with copies of its last frame
            return None
        pixels = torch.empty(frames, channels, height, width, dtype=torch.uint8, device="meta")
        try:
            whole = inputs_of(processor, [conversation], [pixels], [stream.metadata], fitted=True)
            given = {name: whole[name] for name in (adapter.pixels_name, *adapter.encoder_arguments)}
            parts = adapter.in_parts(given)
        except Exception:  # the call needs pixel values; errors come from the call on the whole video
            return None
        if parts is None or parts.steps != -(-frames // each):
            return None
        for name in [name for name, value in whole.items() if getattr(value, "is_meta", False)]:
            del whole[name]

        def made(first: int, last: int) -> Any:
            return prompts(processor, [conversation], [stream.part(first, last)])

        return cls(whole, given, adapter.modality, parts, made, frames, each)

    def on(self, device: torch.device, dtype: torch.dtype, ready: Callable[[], None]) -> FrameParts:
        """The frames in parts, on `device`, with pixels of `dtype`; `ready` is called with each part."""
        return FrameParts(self, device, dtype, ready)


@dataclass(frozen=True)
class FrameParts:
    """Frames of a video in parts (`Parts`), which the processor makes when they are requested."""

    flowing: Flowing
    device: torch.device
    dtype: torch.dtype
    ready: Callable[[], None]

    @property
    def steps(self) -> int:
        return self.flowing.parts.steps

    def arguments(self, first: int, last: int) -> dict[str, Any]:
        flowing = self.flowing
        made = flowing.made(first * flowing.each, min(last * flowing.each, flowing.frames))
        made = made.to(self.device, self.dtype)
        self.ready()
        return {name: made[name] for name in flowing.given}

    def joined(self, outputs: list[dict[str, Any]]) -> dict[str, Any]:
        return self.flowing.parts.joined(outputs)
