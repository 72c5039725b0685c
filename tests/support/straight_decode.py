"""A straight decode of a video file, and its comparison with every way of reading the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from holitom import Video, iter_frames, load_video


def straight(path: Path) -> np.ndarray[Any, Any]:
    """All frames, decoded by one thread from the first on and scaled to the first one's size."""
    frames: list[Any] = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for packet in container.demux(container.streams.video[0]):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                if frames:
                    raise
                continue
            for frame in decoded:
                if frames:
                    height, width = frames[0].shape[:2]
                    if (frame.width, frame.height) != (width, height):
                        frame = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
                frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


def check(path: Path, counts: tuple[int, ...] = (1, 2, 3, 5, 8, 40)) -> list[Video]:
    """Load as many frames in every way, and compare each with the straight decode's of its number."""
    wanted = straight(path)
    videos = []
    for count in counts:
        video = load_video(path, count)
        numbers = video.metadata.frames_indices
        assert len(numbers) == min(count, len(wanted))
        assert np.array_equal(video.frames, wanted[numbers])
        batches = list(iter_frames(path, count, batch=3))
        assert np.array_equal(np.concatenate([batch.frames for batch in batches]), video.frames)
        assert [n for batch in batches for n in batch.metadata.frames_indices] == numbers
        assert [time for batch in batches for time in batch.times] == video.times
        videos.append(video)
    return videos
