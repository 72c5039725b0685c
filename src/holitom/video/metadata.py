"""transformers' metadata of a video, with the times that the file states."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.video_utils import VideoMetadata

ASSUMED_FPS = 2.0
"""Frames per second of frames that come without a rate, as in qwen-vl-utils."""


class TimedMetadata(VideoMetadata):
    """Metadata with the times of frames that the file states, which need not be number / rate.

    The fields are those of `VideoMetadata`: `frames_indices` are numbers of frames, and `total_num_frames`,
    `fps` and `duration` describe the whole file.
    """

    _times: list[float] | None = None

    @property
    def times(self) -> list[float]:
        """Seconds from the video's first frame, of each frame in `frames_indices`."""
        if self._times is None or len(self._times) != len(self.frames_indices or ()):
            # The caller has replaced `frames_indices`.
            return [number / (self.fps or 1.0) for number in self.frames_indices or ()]
        return self._times

    @classmethod
    def of(
        cls,
        times: Sequence[float],
        numbers: Sequence[int],
        total: int,
        rate: float,
        duration: float,
        size: tuple[int, int],
    ) -> TimedMetadata:
        """Make the metadata of sampled frames.

        Args:
            times: time of each sampled frame, in seconds from the first frame of the file.
            numbers: number of each sampled frame.
            total: number of frames in the file.
            rate: frames per second in the file.
            duration: seconds of the file.
            size: width and height as shown, in pixels.
        """
        metadata = cls(
            total_num_frames=total,
            fps=rate,
            width=size[0],
            height=size[1],
            duration=duration,
            video_backend="pyav",
            frames_indices=list(numbers),
        )
        metadata._times = list(times)
        return metadata

    @property
    def timestamps(self) -> list[float]:
        """Seconds from the video's first frame, of each sampled frame."""
        return list(self.times)

    @property
    def sampled_fps(self) -> float:
        """Sampled frames per second: 1 / `seconds_per_frame`."""
        return 1 / self.seconds_per_frame

    @property
    def seconds_per_frame(self) -> float:
        """Mean seconds from one sampled frame to the next; for a single frame, the video's duration."""
        if len(self.times) > 1 and self.times[-1] > self.times[0]:
            return (self.times[-1] - self.times[0]) / (len(self.times) - 1)
        return self.duration or 1.0

    def in_seconds(self) -> TimedMetadata:
        """Copy the metadata with one tick per second, for processors that compute frames_indices / fps."""
        copy = type(self)(**{**self, "fps": 1.0, "frames_indices": list(self.times)})
        copy._times = list(self.times)
        return copy

    def at(self, indices: Sequence[int]) -> TimedMetadata:
        """Copy the metadata for the sampled frames with these indices, which may repeat."""
        numbers, times = list(self.frames_indices or ()), self.times
        copy = type(self)(**{**self, "frames_indices": [numbers[index] for index in indices]})
        copy._times = [times[index] for index in indices]
        return copy


def timed(metadata: VideoMetadata, shape: tuple[int, ...]) -> TimedMetadata:
    """Add times to the metadata of frames of `shape` `[F, H, W, 3]`: frame numbers over the rate, where it
    has none."""
    if isinstance(metadata, TimedMetadata):
        return metadata
    count, height, width = shape[:3]
    rate = float(metadata.fps or ASSUMED_FPS)
    numbers = list(range(count) if metadata.frames_indices is None else metadata.frames_indices)
    total = metadata.total_num_frames or count
    duration = metadata.duration or total / rate
    times = [number / rate for number in numbers]
    return TimedMetadata.of(times, numbers, total, rate, duration, (width, height))
