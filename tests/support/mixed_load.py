"""A mixed load for a server: videos that carry a number, images, text, corrupt files and clients that leave.

Each request is asked alone first. Under load its reply must be the same, so an answer about another video,
which has another number and other log-probabilities, is counted as wrong.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from holitom.bench import moving_digits
from support.serving import FRAMES, Reply, chat, encode, image_part, png, reply, squares, video_part

DIGITS = 3
"""Number of digits of a video's number."""

TOLERANCE = 2e-3
"""Largest difference of log-probabilities alone and under load, where batches have other shapes."""

WEIGHTS = {"number": 64, "several videos": 6, "image or text": 6, "corrupt": 12, "left": 12}
"""Shares of the kinds of requests, in percent."""


@dataclass(frozen=True)
class Known:
    """A request and the reply that it gets alone."""

    request: dict[str, Any]
    alone: Reply

    def differs(self, got: Reply) -> str:
        """What of `got` is not the reply that the request gets alone; empty if nothing."""
        if (got.text, got.prompt_tokens) != (self.alone.text, self.alone.prompt_tokens):
            return f"{got.text!r} of {got.prompt_tokens} tokens, not {self.alone.text!r}"
        pairs = zip(got.logprobs, self.alone.logprobs, strict=True)
        off = max((abs(one - other) for one, other in pairs), default=0.0)
        return f"{got.text!r} with log-probabilities off by {off:.4f}" if off > TOLERANCE else ""


@dataclass
class Tally:
    """What became of the requests.

    Attributes:
        ended: number of requests that ended as they had to, by kind.
        wrong: for each other one, its kind and what came.
    """

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def numbered() -> Iterator[tuple[dict[str, Any], list[tuple[str, str]]]]:
    """Generate videos of different numbers: the message's part, and a question and a word for each digit."""
    seen = set()
    for index in count():
        sample = moving_digits.sample("test", index, FRAMES)
        asked = [each for each in sample.questions if each.task == "identity"][:DIGITS]
        number = tuple(each.answer for each in asked)
        if len(asked) == DIGITS and number not in seen:
            seen.add(number)
            yield video_part(encode(sample.frames)), [(each.text, each.answer) for each in asked]


class MixedLoad:
    """Requests of all kinds, each of which was asked alone.

    Attributes:
        kinds: known requests by kind.
        videos: parts of all videos that carry a number.
    """

    def __init__(self, client: Any, videos: int) -> None:
        """Ask everything alone.

        Args:
            client: OpenAI's client of the server, which must serve the bundled model.
            videos: number of videos that carry a number. Those that the model misreads alone are left out.
        """
        self._url = client.base_url
        self.kinds: dict[str, list[Known]] = {"number": []}
        self.videos: list[dict[str, Any]] = []

        def alone(parts: list[dict[str, Any]], question: str) -> Known:
            request = chat(parts, question)
            return Known(request, reply(client.chat.completions.create(**request)))

        for part, asked in islice(numbered(), 8 * videos):
            known = [alone([part], question) for question, _ in asked]
            if all(each.alone.text == word for each, (_, word) in zip(known, asked, strict=True)):
                self.videos.append(part)
                self.kinds["number"] += known
            if len(self.videos) == videos:
                break
        assert len(self.videos) == videos, "the model reads too few numbers"
        question, pictures = "How many scenes are there?", [image_part(png(seed)[0]) for seed in range(2)]
        first, second = self.videos[:2]
        self.kinds["several videos"] = [
            alone([first, second], question),
            alone([second, pictures[0], first], question),
        ]
        self.kinds["image or text"] = [alone([], question), *(alone([each], question) for each in pictures)]

    def run(self, seconds: float, at_once: int = 100, seed: int = 0) -> Tally:
        """Keep `at_once` requests in flight for `seconds`, then wait for the last ones."""
        return asyncio.run(self._run(seconds, at_once, seed))

    async def _run(self, seconds: float, at_once: int, seed: int) -> Tally:
        from httpx import Limits
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        tally, end = Tally(), time.monotonic() + seconds
        # One connection a request: the server closes idle ones, also just as a request is sent on them.
        http = DefaultAsyncHttpxClient(limits=Limits(max_keepalive_connections=0))
        given = {"base_url": self._url, "api_key": "none", "max_retries": 0, "http_client": http}
        async with AsyncOpenAI(**given, timeout=1800) as client:  # one that takes half an hour is lost

            async def ask_on(rng: random.Random) -> None:
                while time.monotonic() < end:
                    (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
                    try:
                        wrong = await self._one(client, kind, rng)
                    except Exception as error:
                        wrong = f"{type(error).__name__}: {error} ({error.__cause__!r})"
                    if wrong:
                        tally.wrong.append(f"{kind}: {wrong}")
                    else:
                        tally.ended[kind] += 1

            await asyncio.gather(*(ask_on(random.Random(seed * at_once + each)) for each in range(at_once)))
        return tally

    async def _one(self, client: Any, kind: str, rng: random.Random) -> str:
        """Send one request; return what was wrong about its end, empty if nothing."""
        create: Callable[..., Any] = client.chat.completions.create
        if kind == "corrupt":
            return await _refused(create, rng)
        if kind == "left":
            return await _left(client, rng.choice(self.videos), rng)
        known = rng.choice(self.kinds[kind])
        # A salt of its own takes half of the requests past the prefix cache, through the vision tower.
        salt = {"extra_body": {"cache_salt": str(rng.random())}} if rng.random() < 0.5 else {}
        return known.differs(reply(await create(**known.request, **salt)))


async def _refused(create: Callable[..., Any], rng: random.Random) -> str:
    """Send a file that is no video, which has to be the client's error."""
    from openai import APIStatusError

    data = rng.choice([rng.randbytes(9000), b"", encode(squares(rng.randrange(99), frames=2))[:600]])
    try:
        await create(**chat([video_part(data)], "How many scenes are there?"))
    except APIStatusError as error:
        return "" if 400 <= error.status_code < 500 else f"status {error.status_code}"
    return "a corrupt video was answered"


async def _left(client: Any, part: dict[str, Any], rng: random.Random) -> str:
    """Leave while the video waits, is in the vision tower, or is being answered."""
    from openai import APITimeoutError

    request = chat([part], "Which shape flashes?") | {"max_tokens": 1500, "stream": True}
    request["extra_body"] = {"ignore_eos": True, "cache_salt": str(rng.random())}
    if rng.random() < 0.5:
        client = client.with_options(timeout=rng.uniform(0.02, 4))
    try:
        stream = await client.chat.completions.create(**request)
        async for _ in stream:
            break
        await stream.close()
    except APITimeoutError:
        pass
    return ""
