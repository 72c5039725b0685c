"""Families whose video frames are images to the model, with a text before each ("Frame2: ").

Images and frames have the same placeholder, so only the prompt's text tells which images are frames ("Frame2:
", "Frame from 00:01:"). The text is decoded with the model's tokenizer: `model.tokenizer` if it is set, else
the tokenizer of the checkpoint (`model.name_or_path`).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from functools import cached_property
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoTokenizer

from holitom.errors import UnsupportedModelError, UnsupportedUsageError
from holitom.models.framed import FramedTower
from holitom.models.parts import ImageParts, Parts
from holitom.models.values import EncodedImages, Read, of_tokens
from holitom.ops.host import HOST, host_values, sent
from holitom.tokens import VideoTokens

# Number of tokens decoded before a frame: enough for the marker of a first frame in any tokenizer.
WINDOW = 48


class MarkedFrames(FramedTower):
    """An adapter that finds the frames of each video by the text before them.

    Attributes:
        first: pattern at the end of the text before a video's first frame.
        later: pattern of the whole text between two frames of a video.
        mark: a placeholder as text.
    """

    modality: ClassVar[str] = "image"
    token: ClassVar[str] = "image_token_id"
    mark: ClassVar[str]
    first: ClassVar[re.Pattern[str]]
    later: ClassVar[re.Pattern[str]]

    @abstractmethod
    def shuffle(self, patches: Tensor) -> Tensor:
        """Apply the model's pixel shuffle, `[F, P, c]` to `[F, N, k * c]`: concatenate a token's `k`
        patches."""

    def pool(self, patches: Tensor) -> Tensor:
        """Mean over the patches of each token: `[F, P, c]` to `[F, N, c]`."""
        shuffled = self.shuffle(patches)
        parts: Tensor = shuffled.view(*shuffled.shape[:2], -1, patches.shape[-1])
        return parts.mean(dim=2)

    def videos(self, encoded: Any, arguments: dict[str, Any], read: Read) -> list[Any]:
        """Collect all images and frames as one `EncodedImages`; `locate` makes videos of them."""
        self.check_layer(arguments)
        pooled = encoded.pooler_output
        features = (pooled if isinstance(pooled, Tensor) else torch.cat(list(pooled))).flatten(0, -2)
        (own,) = of_tokens(read, [features], lambda patches: [self.pooled(patches).flatten(0, 1)])
        return [EncodedImages(features, sizes=(self.grid,) * (len(features) // prod(self.grid)), **own)]

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        each = prod(self.grid)
        ids, shown = host_values(input_ids, self.shown(arguments["pixel_values"]))
        images = int(shown.sum())
        lengths = [length for row in runs_of(self._holders(ids)) for _, length in row]
        if sum(lengths) != images * each or any(length % each for length in lengths):
            raise UnsupportedUsageError(
                f"the prompt's runs of image placeholders are {lengths} tokens long, but {images} images "
                f"(frames among them) of {each} tokens came with it; pass the ids that the processor made "
                "for them, with a processor that fits the model"
            )

    def in_parts(self, arguments: dict[str, Any]) -> Parts | None:
        return ImageParts(arguments)

    def shown(self, pixels: Tensor) -> Tensor:
        """Whether each image of `pixel_values` is sent, bool on the host; here all are."""
        return torch.ones(len(pixels), dtype=torch.bool, device=HOST)

    def located_by(self, given: dict[str, Any]) -> list[Tensor]:
        return host_values(given["input_ids"])

    def locate(self, encodings: list[Any], read: list[Tensor]) -> list[VideoTokens]:
        (images,) = encodings
        (ids,) = read
        each = prod(self.grid)
        runs = runs_of(self._holders(ids))
        counts = [sum(length for _, length in row) // each for row in runs]
        copies = times_repeated(sum(counts), len(images.sizes), "images")
        found: list[VideoTokens] = []
        start = 0
        for row in range(0, len(runs), copies):
            frames = self._frames(ids[row], runs[row], each)
            for video in sorted({video for video in frames if video is not None}):
                own = [start + image for image, belongs in enumerate(frames) if belongs == video]
                at = torch.tensor(own, device=HOST)
                tokens = at[:, None] * each + torch.arange(each, device=HOST)
                found.append(images.frames(tokens.flatten(), self.grid, len(at)))
            start += counts[row]
        return found

    def _holders(self, input_ids: Tensor) -> Tensor:
        """Whether each of `input_ids` is a placeholder of an image or frame, `[B, L]` bool."""
        return self.is_token(input_ids, self.placeholder)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Whether each of `input_ids` is a placeholder of a video frame; those of images count as text."""
        (ids,) = host_values(input_ids)
        holders = self._holders(ids)
        each = prod(self.grid)
        for row, runs in enumerate(runs_of(holders)):
            frames = self._frames(ids[row], runs, each)
            image = 0
            for begin, length in runs:
                if frames[image : image + 1] == [None]:
                    holders[row, begin : begin + length] = False
                image += length // each
        return sent(holders, input_ids.device)

    def _frames(self, ids: Tensor, runs: list[tuple[int, int]], each: int) -> list[int | None]:
        """Number, within its row, of the video of every image of a row; None for an image that is no
        frame."""
        if not runs:
            return []
        host = ids.tolist()
        ends = [0, *(begin + length for begin, length in runs)]  # columns at which texts begin
        texts = self._tokenizer.batch_decode(
            [host[max(end, begin - WINDOW) : begin] for end, (begin, _) in zip(ends, runs, strict=False)],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        frames: list[int | None] = []
        video, open_ = -1, False
        for text, (_, length) in zip(texts, runs, strict=True):
            single = length == each
            if single and self.first.search(text):
                video, open_ = video + 1, True
            elif not (single and open_ and self.later.fullmatch(text)):
                open_ = False
            frames += [video if open_ else None] * (length // each)
        return frames

    def check(self) -> None:
        super().check()
        if self.placeholder is not None:
            _ = self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = getattr(self.model, "tokenizer", None)
        name = getattr(self.model, "name_or_path", "")
        if tokenizer is None and name:
            try:
                tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
            except (OSError, ValueError):
                tokenizer = None
        # transformers may return an empty tokenizer where there is none.
        if tokenizer is None or tokenizer.convert_tokens_to_ids(self.mark) != self.placeholder:
            raise UnsupportedModelError(
                f"{self.family} tells frames from images by the text before them; there is no tokenizer at "
                f"{name!r} to read it; set model.tokenizer = processor.tokenizer before attaching"
            )
        return tokenizer


def runs_of(holders: Tensor) -> list[list[tuple[int, int]]]:
    """Find the runs of true entries in `holders` `[B, L]` bool: first column and length of each, row by
    row."""
    edges = torch.nn.functional.pad(holders.to("cpu", torch.int8), (1, 1)).diff(dim=1)
    runs = []
    for row in edges:
        begins, ends = (row == 1).nonzero()[:, 0].tolist(), (row == -1).nonzero()[:, 0].tolist()
        runs.append([(begin, end - begin) for begin, end in zip(begins, ends, strict=True)])
    return runs


def times_repeated(held: int, encoded: int, what: str) -> int:
    """Number of copies of each row in a batch: `generate` repeats rows (beams) but encodes images once.

    Args:
        held: number of images that the rows' placeholders stand for.
        encoded: number of images that were encoded.
        what: the noun for them in the message.

    Raises:
        UnsupportedUsageError: `held` is no multiple of `encoded`.
    """
    copies, rest = divmod(held, encoded)
    if rest or not copies:
        raise UnsupportedUsageError(
            f"the rows hold placeholders of {held} {what}, but {encoded} were encoded; pass the ids that the "
            "processor made for them (with a cache: for the new part of the prompt)"
        )
    return copies
