"""A real `vllm serve` with the plugin installed, a real client, and what it has to survive."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.mixed_load import WEIGHTS, MixedLoad
from support.serving import (
    FRAMES,
    RETAIN,
    VIDEO_TOKENS,
    Reply,
    Server,
    Transformers,
    chat,
    command,
    decode,
    encode,
    environment,
    frames_part,
    image_part,
    png,
    reply,
    serving,
    squares,
    video_part,
)

from holitom.bundled import DEMO_QUESTION
from holitom.cli import main

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

QUESTIONS = (DEMO_QUESTION, "How many scenes are there?", "What is the first digit?")


def ask(client: Any, parts: Sequence[dict[str, Any]], question: str) -> Reply:
    return reply(client.chat.completions.create(**chat(parts, question)))


def same(served: Reply, expected: Reply) -> None:
    assert served.text == expected.text
    assert served.prompt_tokens == expected.prompt_tokens
    # Two engines' kernels on the same tokens; other tokens would be off by far more.
    assert served.logprobs == pytest.approx(expected.logprobs, abs=2e-3)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_demo_is_answered_as_by_transformers(
    client: Any, demo: bytes, transformers_reusing: Transformers, question: str
) -> None:
    same(ask(client, [video_part(demo)], question), transformers_reusing.ask(question, videos=[decode(demo)]))


def test_several_videos_and_images_in_one_request(
    client: Any, demo: bytes, transformers_reusing: Transformers
) -> None:
    files = [encode(squares(1)), demo, encode(squares(3))]
    data, picture = png(4)
    served = ask(client, [*map(video_part, files), image_part(data)], DEMO_QUESTION)
    same(served, transformers_reusing.ask(DEMO_QUESTION, videos=[*map(decode, files)], images=[picture]))


def test_videos_of_several_lengths_in_one_request(client: Any) -> None:
    """transformers' processor does not take these together, so only what each of them counts is known."""
    lengths = (16, 8, 11)
    files = [encode(squares(frames, frames=frames)) for frames in lengths]
    counts = [round(RETAIN * frames * 49) + 1 for frames in lengths]
    without = ask(client, [], DEMO_QUESTION).prompt_tokens
    served = ask(client, [*map(video_part, files)], DEMO_QUESTION)
    assert served.prompt_tokens == without + sum(counts)


def test_text_and_images_alone_are_what_they_were(client: Any, transformers_path: Transformers) -> None:
    data, picture = png(5)
    same(ask(client, [], QUESTIONS[1]), transformers_path.ask(QUESTIONS[1]))
    same(ask(client, [image_part(data)], QUESTIONS[1]), transformers_path.ask(QUESTIONS[1], images=[picture]))


@pytest.mark.parametrize(
    ("shows", "sent"), [("black", VIDEO_TOKENS), ("noise", VIDEO_TOKENS), ("one frame", 6)]
)
def test_the_count_is_of_shapes_alone(client: Any, shows: str, sent: int) -> None:
    clip = np.zeros((FRAMES, 112, 112, 3), np.uint8)
    if shows == "noise":
        clip = np.random.default_rng(0).integers(0, 256, clip.shape, dtype=np.uint8)
    video = frames_part(clip[:1]) if shows == "one frame" else video_part(encode(clip))
    without = ask(client, [], DEMO_QUESTION).prompt_tokens
    served = ask(client, [video], DEMO_QUESTION)
    assert served.prompt_tokens == without + sent
    assert served.text


def test_the_same_video_twice_hits_the_caches(server: Server, client: Any) -> None:
    video = video_part(encode(squares(6)))
    first = ask(client, [video], DEMO_QUESTION)
    processed = server.metric("vllm:mm_cache_hits_total")
    again = ask(client, [video], DEMO_QUESTION)
    assert again.cached_tokens >= 64, "two whole blocks of 32 of a prompt of about 90"
    assert server.metric("vllm:mm_cache_hits_total") > processed
    assert (again.text, again.prompt_tokens) == (first.text, first.prompt_tokens)
    # Another question about it finds the video there, and only the question is computed.
    other = ask(client, [video], QUESTIONS[1])
    assert other.cached_tokens >= 64
    assert other.text == ask(client, [video], QUESTIONS[1]).text
    # Another video of the same shape has the same token ids, and must not be served from these blocks.
    assert ask(client, [video_part(encode(squares(7)))], DEMO_QUESTION).cached_tokens < 32


def test_the_cache_is_as_full_as_the_merged_prompt_needs(server: Server, client: Any) -> None:
    """What prefills compute, by the server's own count, is the merged prompt."""
    before = server.metric("vllm:prompt_tokens_total")
    served = ask(client, [video_part(encode(squares(8)))], DEMO_QUESTION)
    assert server.metric("vllm:prompt_tokens_total") - before == served.prompt_tokens < 100


@pytest.mark.parametrize("kind", ["garbage", "cut short", "empty"])
def test_a_corrupt_video_is_the_clients_error(client: Any, demo: bytes, kind: str) -> None:
    from openai import APIStatusError

    data = {"garbage": bytes(range(256)) * 40, "cut short": demo[:600], "empty": b""}[kind]
    with pytest.raises(APIStatusError) as refused:
        ask(client, [video_part(data)], DEMO_QUESTION)
    assert 400 <= refused.value.status_code < 500
    assert ask(client, [], QUESTIONS[1]).text, "the server lives on"


def test_a_prompt_too_long_even_when_merged_is_the_clients_error(client: Any) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match="2048"):
        ask(client, [], "how many " * 2000)


def test_an_answer_in_a_given_form(client: Any, demo: bytes) -> None:
    """Structured output works on what the language model says, merged prompt or not."""
    choices = ["three", "seven"]
    request = chat([video_part(demo)], DEMO_QUESTION)
    made = client.chat.completions.create(**request, extra_body={"structured_outputs": {"choice": choices}})
    assert made.choices[0].message.content.strip() in choices


@pytest.mark.parametrize("order", ["vtit", "itvt", "tvivt"])
def test_media_in_any_order(client: Any, transformers_reusing: Transformers, demo: bytes, order: str) -> None:
    """Video, image and text in turn: each stands where it was sent."""
    data, picture = png(4)
    kinds = {"v": video_part(demo), "i": image_part(data), "t": {"type": "text", "text": DEMO_QUESTION}}
    parts = [kinds[kind] for kind in order[:-1]]
    served = ask(client, parts, DEMO_QUESTION)
    same(served, transformers_reusing.ask_in_order(order, DEMO_QUESTION, decode(demo), picture))


def test_clients_that_disconnect_leave_nothing_behind(server: Server, client: Any, demo: bytes) -> None:
    from openai import APITimeoutError

    for seed in range(8):
        request = chat([video_part(encode(squares(20 + seed)))], DEMO_QUESTION)
        request |= {"max_tokens": 1500, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = client.chat.completions.create(**request)
        next(iter(stream))
        stream.close()
    # Some leave while their video is in the tower, or waits for it.
    for seed in range(4):
        hasty = client.with_options(timeout=0.1 + 0.1 * seed)
        with suppress(APITimeoutError):  # or it was fast enough
            hasty.chat.completions.create(**chat([video_part(encode(squares(30 + seed)))], DEMO_QUESTION))
    server.settle()
    assert ask(client, [video_part(demo)], DEMO_QUESTION).text


def test_a_hundred_at_once_each_get_their_own(server: Server, client: Any, demo: bytes) -> None:
    """Mixed videos, images and text, corrupt videos among them: every answer is what it is alone."""
    files = [demo, encode(squares(1)), encode(squares(2, frames=8)), encode(squares(3, frames=11))]
    kinds: list[tuple[list[dict[str, Any]], str]] = [
        ([video_part(file)], question) for file in files for question in QUESTIONS
    ]
    kinds += [([image_part(png(seed)[0])], QUESTIONS[1]) for seed in (4, 5)]
    kinds += [([], question) for question in QUESTIONS]
    kinds += [([video_part(files[1]), image_part(png(4)[0]), video_part(files[2])], QUESTIONS[0])]
    corrupt = ([video_part(bytes(range(256)) * 40)], QUESTIONS[0])
    alone = [ask(client, *kind) for kind in kinds]
    order = [index % len(kinds) for index in range(92)] + [-1] * 8
    random.Random(0).shuffle(order)

    async def all_at_once() -> list[Any]:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=client.base_url, api_key="none", timeout=900, max_retries=0) as many:
            made = [
                many.chat.completions.create(**chat(*(corrupt if kind < 0 else kinds[kind])))
                for kind in order
            ]
            return await asyncio.gather(*made, return_exceptions=True)

    for kind, outcome in zip(order, asyncio.run(all_at_once()), strict=True):
        if kind < 0:
            assert 400 <= getattr(outcome, "status_code", 0) < 500
            continue
        assert not isinstance(outcome, BaseException), outcome
        got = reply(outcome)
        assert (got.text, got.prompt_tokens) == (alone[kind].text, alone[kind].prompt_tokens)
        assert got.logprobs == pytest.approx(alone[kind].logprobs, abs=2e-3)
    assert server.metric("vllm:num_requests_running") == 0


def test_a_mixed_load_loses_nothing(server: Server, client: Any) -> None:
    """Clients that leave and corrupt files among videos that carry numbers; longer: tools/serve_mixed.py."""
    tally = MixedLoad(client, videos=4).run(seconds=12)
    assert not tally.wrong
    assert set(tally.ended) == set(WEIGHTS)
    server.settle()


def test_bench_serve_prints_one_server_against_another(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same server twice: the load generator runs, and what shapes decide comes out to the token."""
    load = "--requests 3 --frames 16 --side 112 --answer-tokens 4 --rates inf --videos still".split()
    saved = tmp_path / "full.json"
    assert main(["bench", "serve", server.url, *load, "--save", str(saved), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["rate"] == "inf"
    assert all(row[name] > 0 for name in ("ttft", "requests_per_second", "tokens_per_second"))
    # 32 random words, the video and the chat template's few: between three and four blocks of 32.
    assert 32 + VIDEO_TOKENS < row["prompt_tokens"] < 128
    # The first two blocks of a follow-up are the video's, which it shares with the first question.
    asked = row["follow_ups"]
    assert 64 <= asked["cached"] * row["prompt_tokens"] + 0.01 < row["prompt_tokens"]
    assert asked["of_first"] == pytest.approx(asked["ttft"] / row["ttft"])
    names = ("--name", "again", "--against-name", "first")
    assert main(["bench", "serve", server.url, *load, "--against", str(saved), *names]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("at once: first", "again is", "TTFT", "ITL", "fit", "follow-up"))
    assert "1.00x less" in table
    assert main(["bench", "serve", "http://127.0.0.1:1", *load]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reuse"), [("--tensor-parallel-size", True), ("--data-parallel-size", False)]
)
def test_two_ranks_answer_alike(transformers_path: Transformers, demo: bytes, more: str, reuse: bool) -> None:
    from openai import OpenAI

    files = [demo, encode(squares(1)), encode(squares(2, frames=8))]
    path = transformers_path.with_reuse() if reuse else transformers_path
    with serving({"retain_ratio": RETAIN, "reuse": reuse}, "--enforce-eager", more, "2") as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600, max_retries=0)
        for file in files:
            expected = path.ask(DEMO_QUESTION, videos=[decode(file)])
            for _ in range(2):
                same(ask(client, [video_part(file)], DEMO_QUESTION), expected)


def test_a_bad_ratio_is_refused_before_weights_load() -> None:
    """By `vllm serve` itself; tests/integrations/vllm/test_processing.py has the other settings."""
    ran = subprocess.run(
        command(0, {"retain_ratio": 2}), env=environment(), capture_output=True, text=True, timeout=1200
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode != 0
    assert "retain_ratio must be a number in (0, 1], got 2" in said
    assert "Starting to load model" not in said
