"""Choose which frames of a file to read by what changes in it, from thumbnails of many of its frames."""

from __future__ import annotations

import numpy as np

from holitom.video.change import CANDIDATES, chosen, thumbnail
from holitom.video.decoding import Progress, UntrustedError
from holitom.video.reading import TRIES, ShortError, Source
from holitom.video.sampling import Sampling


def choose_by_change(source: Source, sampling: Sampling, progress: Progress | None) -> None:
    """Set `source.numbers` to the frames of `sampling`, chosen among `CANDIDATES` times as many.

    The candidates are decoded one after another, and memory holds their thumbnails.

    Raises:
        VideoError: the file cannot be decoded.
    """
    name = source.file.file.name
    for _ in range(TRIES):
        wanted = len(sampling.choose(name, source.timeline))
        candidates = sampling.choose(name, source.timeline, CANDIDATES)
        source.numbers = candidates
        if wanted == len(candidates):
            return
        try:
            seen = np.stack([thumbnail(picture.image) for picture in source.pictures(progress)])
        except UntrustedError:
            continue
        except ShortError:
            source.recount()
            continue
        source.numbers = [candidates[i] for i in chosen(seen, wanted)]
        return
    raise source.unsteady
