"""Choose which frames of a file to read by what changes in it, from thumbnails of many of its frames."""

from __future__ import annotations

import numpy as np

from holitom.video.change import CANDIDATES, chosen, thumbnail
from holitom.video.decoding import Progress
from holitom.video.reading import Source
from holitom.video.sampling import Sampling


def choose_by_change(source: Source, sampling: Sampling, progress: Progress | None) -> None:
    """Set `source.numbers` to the frames of `sampling`, chosen among `CANDIDATES` times as many.

    The candidates are decoded one after another, and memory holds their thumbnails.

    Raises:
        VideoError: the file cannot be decoded.
    """
    source.numbers = source.tried(lambda: _chosen(source, sampling, progress))


def _chosen(source: Source, sampling: Sampling, progress: Progress | None) -> list[int]:
    """Numbers of the chosen frames by what is known of the file; `source.numbers` are the candidates'."""
    name = source.file.file.name
    wanted = len(sampling.choose(name, source.timeline))
    candidates = sampling.choose(name, source.timeline, CANDIDATES)
    source.numbers = candidates
    if wanted == len(candidates):
        return candidates
    seen = np.stack([thumbnail(picture.image) for picture in source.pictures(progress)])
    return [candidates[i] for i in chosen(seen, wanted)]
