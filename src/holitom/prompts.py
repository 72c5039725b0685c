"""Make a model's inputs for questions about videos with the model's own chat template and processor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from holitom.errors import ModelError, SettingsError, VideoError
from holitom.video import Fit, FramesBy, Sampling, Video, load_sampled
from holitom.video.fitting import fit_of, fitted
from holitom.video.metadata import ASSUMED_FPS, TimedMetadata, timed

SECONDS_PER_GRID = ("second_per_grid_ts", "video_second_per_grid")
"""Names, in Qwen2.5-VL and Qwen-Omni, of the seconds from one temporal patch to the next."""


def prompt(
    processor: Any,
    video: Video | str | os.PathLike[str] | NDArray[np.uint8] | Sequence[Any],
    question: str,
    *,
    frames: int | None = None,
    fps: float | None = None,
    frames_by: FramesBy = "time",
) -> Any:
    """Make a model's inputs for one question about one video, for any of the model families.

    All given frames are used, and the model is given their times.

        inputs = holitom.prompt(processor, "video.mp4", "What happens?").to(model.device, model.dtype)

    Args:
        processor: the model's own processor, from `AutoProcessor.from_pretrained`.
        video: a `Video`, a video file's path, or frames: `[F, H, W, 3]` uint8 RGB, or a sequence of F
            pictures.
        question: the question, plain text.
        frames: number of frames to sample from a file. Default: 32, unless `fps` is given.
        fps: frames per second: those to sample from a file, or the rate of given frames. Default for
            given frames: 2.
        frames_by: how the frames of a file are chosen, "time" or "change", see `holitom.video.FramesBy`.

    Returns:
        The processor's output for one row, PyTorch tensors by name.

    Raises:
        SettingsError: the question contains one of the model's placeholders, or a setting is out of range.
        VideoError: the file cannot be read, or the processor refuses its frames.
        ModelError: the processor takes no videos or has no chat template.
    """
    conversation = asking(processor, question)
    return prompts(processor, [conversation], [as_video(video, frames, fps, fit_of(processor), frames_by)])


def asking(processor: Any, question: str) -> list[dict[str, Any]]:
    """Make a conversation that asks one question about one video.

    Raises:
        SettingsError: the question contains one of the model's placeholders.
        ModelError: the processor takes no videos or has no chat template.
    """
    content = [{"type": "video"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    _check(processor, [conversation])
    return conversation


def prompts(
    processor: Any,
    conversations: Sequence[Sequence[dict[str, Any]]],
    videos: Sequence[Video] = (),
    images: Sequence[Sequence[Any]] = (),
) -> Any:
    """Make a model's inputs for a batch of conversations, padded on the left.

    Args:
        processor: the model's own processor; its chat template makes the prompts.
        conversations: one per row: messages whose content is a list of parts (`video`, `image`, `text`).
        videos: the videos of all rows, in the order of the rows.
        images: for each row that has images, its images, in the order of the rows.

    Raises:
        SettingsError: a text contains one of the model's placeholders.
        VideoError: the processor refuses the videos or images.
        ModelError: the processor takes no videos or has no chat template.
    """
    _check(processor, conversations)
    together = getattr(processor.video_processor, "temporal_patch_size", 1)
    fit = fit_of(processor)
    videos = [fitted(at_least(video, together), fit) for video in videos]
    small = all(video.fitted for video in videos)
    frames = [video.frames for video in videos]
    metadata = [timed(video.metadata, video.frames.shape) for video in videos]
    return inputs_of(processor, conversations, frames, metadata, images, fitted=small)


def inputs_of(
    processor: Any,
    conversations: Sequence[Sequence[dict[str, Any]]],
    videos: Sequence[Any],
    metadata: Sequence[TimedMetadata],
    images: Sequence[Sequence[Any]] = (),
    *,
    fitted: bool = False,
) -> Any:
    """Make a model's inputs for conversations that were checked.

    Args:
        processor: as in `prompts`.
        conversations: as in `prompts`.
        videos: frames of each video, as the processor takes them.
        metadata: metadata of each video.
        images: as in `prompts`.
        fitted: whether the frames have the size that the processor resizes them to.

    Raises:
        VideoError: the processor refuses the videos or images.
    """
    text = _texts_of(processor, conversations)
    seen: dict[str, Any] = {}
    metadata = [each.in_seconds() for each in metadata]
    if videos:
        seen["videos"] = list(videos)
        seen["video_metadata"] = metadata
        seen["do_sample_frames"] = False
        if fitted:
            seen["videos_kwargs"] = {"do_resize": False}
        if (
            getattr(processor.video_processor, "stack_frames", 1) > 1
        ):  # MiniCPM-V: joins what it sampled itself
            seen["stack_frames"] = 1
    if images:
        seen["images"] = [list(row) for row in images]
    try:
        inputs = processor(text=text, **seen, padding=True, padding_side="left", return_tensors="pt")
    except ValueError as error:  # such as an aspect ratio beyond the model's
        raise VideoError(f"the model's processor refuses what it is given to see: {error}") from error
    for name in SECONDS_PER_GRID:
        if name in inputs:  # the Omni processors have one rate for all videos, and not the videos' own
            patch = processor.video_processor.temporal_patch_size
            seconds = [patch * video.seconds_per_frame for video in metadata]
            inputs[name] = (
                inputs[name].new_tensor(seconds) if hasattr(inputs[name], "new_tensor") else seconds
            )
    return inputs


def rendered(processor: Any, conversations: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """The text of each conversation, placeholders included; arguments and errors as in `prompts`."""
    _check(processor, conversations)
    return _texts_of(processor, conversations)


def _texts_of(processor: Any, conversations: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    return [processor.apply_chat_template(list(row), add_generation_prompt=True) for row in conversations]


SEEN = ("image", "video", "audio", "vision")
"""Words of which a placeholder's name contains one."""


def as_video(
    video: Video | str | os.PathLike[str] | NDArray[np.uint8] | Sequence[Any],
    frames: int | None = None,
    fps: float | None = None,
    fit: Fit | None = None,
    frames_by: FramesBy = "time",
) -> Video:
    """Turn any video that `prompt` takes into a `Video`; a file's frames are resized by `fit` as they are
    read.

    Raises:
        SettingsError: frames are not `[F, H, W, 3]` uint8, or a setting does not apply to what is given.
        VideoError: a file cannot be read.
    """
    if isinstance(video, (str, os.PathLike)):
        return load_sampled(video, Sampling(frames, fps, frames_by=frames_by), fit=fit)
    if frames_by != "time":
        raise SettingsError(f"frames_by={frames_by} samples a file; these frames are sampled already")
    if frames is not None:
        raise SettingsError(f"frames={frames} samples a file; these frames are sampled already")
    if isinstance(video, Video):
        if fps is not None:
            raise SettingsError(f"fps={fps:g} goes with a file or with frames; a Video has its times")
        return video
    pictures = _stacked(video)
    count, height, width = pictures.shape[:3]
    rate = ASSUMED_FPS if fps is None else fps
    _ = Sampling(fps=rate)  # raises an error for a rate out of range
    times = [i / rate for i in range(count)]
    return Video(pictures, TimedMetadata.of(times, range(count), count, rate, count / rate, (width, height)))


def at_least(video: Video, wanted: int) -> Video:
    """Repeat a video's last frame until it has `wanted` frames.

    A tower that takes two frames together doubles an odd last frame; some processors refuse a single frame.
    """
    missing = wanted - len(video.frames)
    if missing <= 0:
        return video
    shown = [*range(len(video.frames)), *[len(video.frames) - 1] * missing]
    return video.at(shown)


def _stacked(frames: NDArray[np.uint8] | Sequence[Any]) -> NDArray[np.uint8]:
    takes = "frames must be [F, H, W, 3] uint8 RGB, or a list of F pictures of one size"
    modes: set[str] = set()
    try:
        if hasattr(frames, "shape"):
            pictures = np.asarray(frames)
        else:
            listed = list(frames)
            modes = {getattr(picture, "mode", "RGB") for picture in listed}
            pictures = np.stack([np.asarray(picture) for picture in listed])
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{takes}, not {type(frames).__name__} ({error})") from error
    if modes - {"RGB"}:  # of which some have three bytes a pixel too
        raise SettingsError(f"{takes}, not of mode {', '.join(sorted(modes - {'RGB'}))}: convert('RGB')")
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8 or not pictures.size:
        raise SettingsError(f"{takes}, not {list(pictures.shape)} {pictures.dtype}")
    return pictures


def placeholders(processor: Any) -> set[str]:
    """Texts that a processor, or its tokenizer, replaces by pictures, videos or sound."""
    tokenizer = getattr(processor, "tokenizer", None)
    named = {name: getattr(processor, name, None) for name in dir(processor) if name.endswith("_token")}
    found = {str(value) for name, value in named.items() if value and any(kind in name for kind in SEEN)}
    special = getattr(tokenizer, "all_special_tokens", ())
    return found | {text for text in special if any(kind in text for kind in SEEN)}


def _check(processor: Any, conversations: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Check that the processor takes videos and chats, and that texts contain no placeholders."""
    kind = type(processor).__name__
    if getattr(processor, "video_processor", None) is None:
        raise ModelError(f"{kind} takes no videos: give the processor of a video model (AutoProcessor)")
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"{kind} has no chat template: set its chat_template, or take an instruct model's")
    marks = placeholders(processor)
    for text in _texts(conversations):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SettingsError("the question holds bytes that are no UTF-8") from error
        for mark in sorted(marks, key=len, reverse=True):
            if mark in text:
                raise SettingsError(
                    f"the question holds {mark}, which stands for what the model sees or hears: "
                    "leave it out, the prompt has its own"
                )


def _texts(conversations: Sequence[Sequence[dict[str, Any]]]) -> Iterator[str]:
    for row in conversations:
        for message in row:
            content = message.get("content")
            if isinstance(content, str):
                yield content
            elif content:
                yield from (part["text"] for part in content if _is_text(part))


def _is_text(part: Any) -> TypeGuard[Mapping[str, str]]:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)
