"""`vllm serve` as a child process, chat requests to it, and the transformers path to compare with."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from holitom import HoliTom
from holitom.bundled import BUNDLED_MODEL

RETAIN, FRAMES, MAX_TOKENS = 0.10, 16, 4
VIDEO_TOKENS = 78 + 1  # round(0.1 * 16 * 49) and the newline token

Clip = NDArray[np.uint8]


@dataclass
class Server:
    """A running `vllm serve`.

    Attributes:
        port: its port.
        log: the file of its output.
        pid: the id of its process, and of the session that its other processes are in.
    """

    port: int
    log: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metric(self, name: str) -> float:
        """The sum of one of its Prometheus series."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def memory(self) -> float:
        """Memory of all its processes in MB; pages that they share count once."""
        return sum(map(_proportional_kb, _session(self.pid))) / 1000

    def settle(self, patience: float = 120) -> None:
        """Wait until no request runs or waits.

        Raises:
            AssertionError: some still do after `patience` seconds, or hold part of the cache then.
        """
        end = time.monotonic() + patience
        while self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting"):
            assert time.monotonic() < end, "requests of clients that left still run"
            time.sleep(0.5)
        assert self.metric("vllm:kv_cache_usage_perc") == 0


@dataclass(frozen=True)
class Reply:
    """What a chat request brought."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[float, ...]


def environment() -> dict[str, str]:
    """One OpenMP thread a process, a GB of KV cache, no network, and JIT without inductor (its compiler)."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_CI_ENV": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return {**os.environ, **settings}


def command(port: int, holitom: object, *more: str) -> list[str]:
    """`vllm serve` of the bundled model, small enough for a laptop."""
    return [
        *(str(Path(sys.executable).with_name("vllm")), "serve", str(BUNDLED_MODEL)),
        *("--port", str(port), "--served-model-name", "digits"),
        *("--hf-overrides", json.dumps({"holitom": holitom})),
        *("--media-io-kwargs", json.dumps({"video": {"num_frames": FRAMES}})),
        *("--dtype", "float32", "--max-model-len", "2048", "--block-size", "32"),
        # Fewer tokens of a prompt a step than a merged video has: every video's prefill is split.
        *("--max-num-batched-tokens", "512", "--long-prefill-token-threshold", "32", "--max-num-seqs", "32"),
        *("--enable-prompt-tokens-details", "--limit-mm-per-prompt", '{"video": 3, "image": 3}'),
        *more,
    ]


@contextmanager
def serving(holitom: object, *more: str, patience: float = 1200) -> Iterator[Server]:
    """Start a server, wait until it answers, and take it down with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(tempfile.mkdtemp(prefix="holitom-vllm-")) / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command(port, holitom, *more),
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(port, log, process.pid)
    try:
        end = time.monotonic() + patience
        while not _healthy(server):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"vllm serve did not come up:\n{log.read_text()[-6000:]}")
            time.sleep(1)
        yield server
    finally:
        process.terminate()  # it takes its own workers down
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _session(session: int) -> Iterator[int]:
    """Ids of the processes of a session."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended
                # Behind the name, which is in parentheses: state, parent, group, session.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    yield int(folder.name)


def _proportional_kb(pid: int) -> float:
    """Memory of a process in kB, its share of pages that several have; 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1]) * 1.024
    return 0.0


def _healthy(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def video_part(data: bytes) -> dict[str, Any]:
    """A file's bytes as a chat message's part."""
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    return {"type": "video_url", "video_url": {"url": url}}


def frames_part(frames: Clip) -> dict[str, Any]:
    """Frames one by one, as vLLM takes them from clients that have sampled already."""
    pictures = []
    for frame in frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "jpeg")
        pictures.append(base64.b64encode(out.getvalue()).decode())
    return {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join(pictures)}}


def image_part(data: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def chat(parts: Sequence[dict[str, Any]], question: str) -> dict[str, Any]:
    """Arguments of one greedy chat completion."""
    content = [*parts, {"type": "text", "text": question}]
    return {
        "model": "digits",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "logprobs": True,
    }


def reply(completion: Any) -> Reply:
    choice, usage = completion.choices[0], completion.usage
    details = usage.prompt_tokens_details
    return Reply(
        choice.message.content.strip(),
        usage.prompt_tokens,
        (details.cached_tokens or 0) if details else 0,
        tuple(token.logprob for token in choice.logprobs.content),
    )


def encode(frames: Clip) -> bytes:
    """An H.264 file of these frames."""
    from render_demo import write_h264

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_h264(path, frames, fps=8)
        return path.read_bytes()


def decode(data: bytes) -> Clip:
    """The frames that the server's own loader samples from a file."""
    from vllm.multimodal.media import ImageMediaIO, VideoMediaIO

    frames, _ = VideoMediaIO(ImageMediaIO(), num_frames=FRAMES).load_bytes(data).media
    return np.asarray(frames)


def squares(seed: int, frames: int = FRAMES, side: int = 112) -> Clip:
    """Coloured squares that jump over a still background."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(rng.integers(0, 90, (1, side, side, 3), dtype=np.uint8), frames, axis=0)
    for _ in range(4):
        ink, at = rng.integers(120, 256, 3), rng.integers(0, side - 16, (frames, 2))
        for frame, (row, column) in zip(clip, at, strict=True):
            frame[row : row + 16, column : column + 16] = ink
    return clip


def png(seed: int) -> tuple[bytes, Image.Image]:
    """Coloured squares as a PNG file, and as the picture."""
    picture = Image.fromarray(squares(seed, frames=1)[0])
    out = io.BytesIO()
    picture.save(out, "png")
    return out.getvalue(), picture


class Transformers:
    """The same question on the transformers path, at the same budget."""

    def __init__(self, retain_ratio: float = RETAIN) -> None:
        from holitom.ask import load_model

        self.model, self.processor = load_model(str(BUNDLED_MODEL), "float32", "cpu")
        self.method = HoliTom(retain_ratio, budget="exact", inner_drop=None)

    def with_reuse(self) -> Transformers:
        """The same model with reuse in its vision tower."""
        other = copy(self)
        other.method = replace(self.method, reuse=True)
        return other

    def ask(self, question: str, videos: Sequence[Clip] = (), images: Sequence[Any] = ()) -> Reply:
        """Greedy answer, tokens sent into the language model, log-probabilities of the answer's tokens."""
        kinds = [{"type": "video"}] * len(videos) + [{"type": "image"}] * len(images)
        return self._asked([*kinds, {"type": "text", "text": question}], videos, images)

    def ask_in_order(self, order: str, question: str, video: Clip, image: Any) -> Reply:
        """The same for parts in `order`, a letter each: v, i, t for video, image and the question."""
        kinds = {"v": {"type": "video"}, "i": {"type": "image"}, "t": {"type": "text", "text": question}}
        return self._asked([kinds[kind] for kind in order], [video] * order.count("v"), [image])

    def _asked(self, content: list[Any], videos: Sequence[Clip], images: Sequence[Any]) -> Reply:
        message = {"role": "user", "content": content}
        text = self.processor.apply_chat_template([message], add_generation_prompt=True)
        inputs = self.processor(
            text=[text], videos=list(videos) or None, images=list(images) or None, return_tensors="pt"
        )
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode(), self.method(self.model) as run:
            made = self.model.generate(
                **inputs,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        new = made.sequences[0, length:]
        logprobs = [
            logits[0].log_softmax(-1)[token].item() for logits, token in zip(made.logits, new, strict=True)
        ]
        merged = sum(video.tokens + 1 - video.sent for video in run.last.videos) if run.last else 0
        answer = self.processor.decode(new, skip_special_tokens=True).strip()
        return Reply(answer, length - merged, 0, tuple(logprobs))
