"""Measure a running server with vLLM's own load generator (`vllm bench serve`).

Every request has a different video, so that no cache hits occur, and a short question. The video is synthetic
(noise, or a camera that stands still) and has as many tokens as any other of its shape. A second run asks
another question about each video, which the server finds in its prefix cache. The generator gives latencies
and throughput; KV-cache use, prompt lengths and cache hits are the server's own metrics.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from holitom.errors import HolitomError

CACHED = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
"""The server's metrics of prompt tokens: those found in its prefix cache, and all."""


class ServingError(HolitomError, RuntimeError):
    """A server cannot be reached, or requests to it failed."""


@dataclass(frozen=True)
class Load:
    """The requests at each rate.

    Attributes:
        requests: number of requests.
        frames, side: number of frames of each video, and their height and width in pixels.
        question_tokens: number of tokens of random text.
        answer_tokens: number of generated tokens; no answer ends before.
        videos: "noise", of which a vision tower can reuse nothing, or "still": a square before a background.
    """

    requests: int = 64
    frames: int = 32
    side: int = 384
    question_tokens: int = 32
    answer_tokens: int = 64
    videos: str = "noise"


@dataclass(frozen=True)
class FollowUps:
    """Further questions, one about each video of a row, asked after all first ones were answered.

    Attributes:
        ttft, ttft_p99: time to first token in ms, median and 99th percentile.
        of_first: median TTFT divided by that of the first questions.
        cached: share of prompt tokens found in the prefix cache, in [0, 1].
    """

    ttft: float
    ttft_p99: float
    of_first: float
    cached: float


@dataclass(frozen=True)
class Row:
    """One server at one request rate.

    Attributes:
        rate: requests sent per second; infinite: all at once.
        ttft, ttft_p99: time to first token in ms, median and 99th percentile.
        itl: inter-token latency in ms, median.
        requests_per_second, tokens_per_second: throughput.
        kv_peak: largest share of the KV cache in use, in [0, 1].
        prompt_tokens: number of tokens of one request's prompt.
        fit: number of requests of this length that the KV cache holds at once.
        follow_ups: further questions about the same videos; None where none were asked.
    """

    rate: float
    ttft: float
    ttft_p99: float
    itl: float
    requests_per_second: float
    tokens_per_second: float
    kv_peak: float
    prompt_tokens: float
    fit: int
    follow_ups: FollowUps | None = None


@dataclass(frozen=True)
class Measured:
    """One server at every rate."""

    url: str
    model: str
    load: Load
    rows: list[Row]

    def to_json(self) -> str:
        """Write as one JSON object; an infinite rate is the string "inf", since JSON has no such number."""
        kept = asdict(self)
        for row in kept["rows"]:
            row["rate"] = "inf" if math.isinf(row["rate"]) else row["rate"]
        return json.dumps(kept)

    @classmethod
    def from_json(cls, text: str) -> Measured:
        """Read what `to_json` wrote.

        Raises:
            ServingError: `to_json` did not write `text`.
        """
        try:
            read = json.loads(text)
            rows = [_read_row(row) for row in read.pop("rows")]
            return cls(load=Load(**read.pop("load")), rows=rows, **read)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServingError("not a file that `holitom bench serve --save` wrote") from error


def _read_row(row: dict[str, Any]) -> Row:
    asked = row.get("follow_ups")
    follow_ups = None if asked is None else FollowUps(**asked)
    return Row(**{**row, "rate": float(row["rate"]), "follow_ups": follow_ups})


def measure(
    url: str,
    rates: list[float],
    load: Load,
    tell: Callable[[str], None] = lambda _: None,
    *,
    follow_ups: bool = True,
) -> Measured:
    """Load the server at `url` at each of `rates` in turn.

    Args:
        url: URL of a server with OpenAI's protocol and vLLM's metrics, without `/v1`.
        rates: requests per second; `math.inf`: all at once.
        load: the requests at each rate.
        tell: called with a line of text before each rate.
        follow_ups: whether to ask another question about each video afterwards, at the same rate.

    Raises:
        ServingError: the server cannot be reached, or a request failed.
        ImportError: vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ImportError("the load generator is vLLM's: pip install 'holitom[vllm]'")
    url = url.rstrip("/")
    model = json.loads(_get(f"{url}/v1/models"))["data"][0]
    rows = []
    for rate in rates:
        tell(f"{url}: {load.requests} requests at {rate:g} a second")
        videos = secrets.randbits(32)  # none that an earlier run has left in the server's caches
        row = _row(url, model, rate, load, videos)
        if follow_ups:
            tell(f"{url}: another question about each of these videos")
            row = replace(row, follow_ups=_follow_ups(url, model, row, load, videos))
        rows.append(row)
    return Measured(url, model["id"], load, rows)


def _row(url: str, model: dict[str, Any], rate: float, load: Load, videos: int) -> Row:
    """Ask a question about each of the videos of seed `videos`."""
    before = _metrics(url)
    with _watched(url) as peak:
        result = _generate(url, model, rate, load, videos, questions=0)
    after = _metrics(url)
    finished = after["vllm:request_success_total"] - before["vllm:request_success_total"]
    prompt = (after["vllm:prompt_tokens_total"] - before["vllm:prompt_tokens_total"]) / finished
    blocks, size = _cache(url)
    return Row(
        rate=rate,
        ttft=result["median_ttft_ms"],
        ttft_p99=result["p99_ttft_ms"],
        itl=result["median_itl_ms"],
        requests_per_second=result["request_throughput"],
        tokens_per_second=result["output_throughput"],
        kv_peak=peak[0],
        prompt_tokens=prompt,
        fit=blocks // math.ceil((prompt + load.answer_tokens) / size),
    )


def _follow_ups(url: str, model: dict[str, Any], first: Row, load: Load, videos: int) -> FollowUps:
    """Ask another question about each of the videos of seed `videos`, at the rate of the `first` ones."""
    before = _metrics(url)
    result = _generate(url, model, first.rate, load, videos, questions=1)
    after = _metrics(url)
    hits, queries = (after[name] - before[name] for name in CACHED)
    ttft: float = result["median_ttft_ms"]
    return FollowUps(ttft, result["p99_ttft_ms"], ttft / first.ttft, hits / max(1.0, queries))


def _generate(
    url: str, model: dict[str, Any], rate: float, load: Load, videos: int, questions: int
) -> dict[str, Any]:
    """Run the load generator and return its JSON result.

    Args:
        url: URL of the server.
        model: the server's description of its model.
        rate: requests per second.
        load: number and shapes of the requests.
        videos: seed of the videos.
        questions: seed of the questions.

    Raises:
        ServingError: a request failed.
    """
    options = {
        "backend": "openai-chat",
        "base-url": url,
        "endpoint": "/v1/chat/completions",
        "model": model["id"],
        "tokenizer": model.get("root") or model["id"],
        "dataset-name": "random-mm",
        "seed": questions,
        "num-prompts": load.requests,
        "random-mm-base-items-per-request": 1,
        "random-mm-num-mm-items-range-ratio": 0,
        "random-mm-limit-mm-per-prompt": '{"image": 0, "video": 1}',
        "random-mm-bucket-config": f"{{({load.side}, {load.side}, {load.frames}): 1.0}}",
        "random-input-len": load.question_tokens,
        "random-output-len": load.answer_tokens,
        "request-rate": f"{rate:g}",
        "percentile-metrics": "ttft,itl",
        "result-filename": "result.json",
    }
    command = [sys.executable, "-m", "holitom.bench.video_load", load.videos, str(videos), "bench", "serve"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    # In detail: errors, each with its reason.
    command += ["--ignore-eos", "--disable-tqdm", "--save-result", "--save-detailed"]
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run([*command, "--result-dir", folder], capture_output=True, text=True)
        made = Path(folder, "result.json")
        if ran.returncode or not made.exists():
            said = (ran.stderr or ran.stdout).strip().splitlines()
            raise ServingError(f"vllm bench serve failed: {said[-1] if said else ran.returncode}")
        result: dict[str, Any] = json.loads(made.read_text())
    if result["completed"] < load.requests:
        first = next((error for error in result.get("errors", []) if error), "no reason given")
        failed = load.requests - result["completed"]
        raise ServingError(
            f"{failed} of {load.requests} requests to {url} failed: {first.strip().splitlines()[-1]}"
        )
    return result


@contextmanager
def _watched(url: str) -> Iterator[list[float]]:
    """Record the highest KV-cache use while the `with` block runs, in a list of one number."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            try:
                peak[0] = max(peak[0], _metrics(url)["vllm:kv_cache_usage_perc"])
            except ServingError:  # a busy server may answer late; the next request will succeed
                continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _metrics(url: str) -> dict[str, float]:
    """The server's metrics by name, summed over labels; for cache use, the maximum over engines."""
    found = {
        "vllm:request_success_total": 0.0,
        "vllm:prompt_tokens_total": 0.0,
        "vllm:kv_cache_usage_perc": 0.0,
        **dict.fromkeys(CACHED, 0.0),
    }
    for line in _get(f"{url}/metrics").splitlines():
        name = re.split(r"[{ ]", line, maxsplit=1)[0]
        if name in found:
            value = float(line.rsplit(maxsplit=1)[1])
            full = name == "vllm:kv_cache_usage_perc"
            found[name] = max(found[name], value) if full else found[name] + value
    return found


def _cache(url: str) -> tuple[int, int]:
    """Number of cache blocks of all the server's engines together, and of tokens in a block."""
    lines = [
        line for line in _get(f"{url}/metrics").splitlines() if line.startswith("vllm:cache_config_info{")
    ]
    if not lines:
        raise ServingError(f"{url} does not say how large its KV cache is; is it vLLM?")
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in lines]
    return sum(int(label["num_gpu_blocks"]) for label in labels), int(labels[0]["block_size"])


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            text: str = reply.read().decode()
    except (OSError, ValueError) as error:  # urllib's own errors are OSErrors
        raise ServingError(f"{url}: {getattr(error, 'reason', error)}") from error
    return text
