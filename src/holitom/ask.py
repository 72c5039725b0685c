"""Answer one question about one video: load a model, make its prompt, generate, and report the costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError

from holitom.errors import ModelError, SettingsError, UnsupportedModelError
from holitom.hub import located
from holitom.models import adapter_for, config_of, original_layout
from holitom.prompts import prompt as prompt  # the whole of one question from one module

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from holitom.methods import Method
    from holitom.runtime import Report, Run

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Answer:
    """The model's answer and the report of its run."""

    text: str
    new_tokens: int
    report: Report

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens that entered the language model, without the model's separators."""
        return sum(video.visual for video in self.report.videos)

    @property
    def separators(self) -> int:
        """Number of tokens that the model put between or after visual tokens (newlines)."""
        return sum(video.separators for video in self.report.videos)

    @property
    def remaining_tokens(self) -> int:
        """Number of visual tokens after the last merge inside the language model; all without one."""
        return sum(video.remaining for video in self.report.videos)

    @property
    def last_layer(self) -> int | None:
        """First layer that holds only `remaining_tokens`; None where nothing merged inside."""
        return max((layer for video in self.report.videos for layer in video.inner), default=None)

    @property
    def time_to_first_token(self) -> float:
        """Seconds in the vision tower, in merging and in the prefill, without reading the video."""
        seconds = self.report.seconds
        return seconds["vision"] + seconds["merging"] + seconds["prefill"]

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Tokens per second after the first token; None where there was only one."""
        seconds = self.report.seconds["decoding"]
        return (self.new_tokens - 1) / seconds if self.new_tokens > 1 and seconds > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Everything that `holitom ask --json` prints for one run."""
        video = self.report.videos[0]
        return {
            "answer": self.text,
            "new_tokens": self.new_tokens,
            "visual_tokens": self.visual_tokens,
            "separators": self.separators,
            "visual_tokens_remaining": self.remaining_tokens,
            "visual_tokens_before": video.tokens,
            "stages": video.stages,
            "segments": [list(segment) for segment in video.segments],
            "seconds": self.report.seconds,
            "ttft_seconds": self.time_to_first_token,
            "decode_tokens_per_second": self.decode_tokens_per_second,
            "kv_cache_bytes": self.report.kv_bytes,
            "kv_cache_bytes_full": self.report.kv_bytes_full,
            "reuse": None if self.report.reuse is None else self.report.reuse.to_dict(),
        }


class Timed(NamedTuple):
    """One run of one method, from the file to the answer.

    Attributes:
        reading: seconds to read the file.
        preprocessing: seconds in the processor.
        answer: the answer, with the seconds of the model.
    """

    reading: float
    preprocessing: float
    answer: Answer

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part up to the first token: reading, preprocessing, vision, merging, prefill."""
        seconds = self.answer.report.seconds
        model = {part: seconds[part] for part in ("vision", "merging", "prefill")}
        return {"reading": self.reading, "preprocessing": self.preprocessing, **model}

    @property
    def first_token(self) -> float:
        """Seconds of vision tower, merging and prefill."""
        return self.answer.time_to_first_token

    @property
    def whole(self) -> float:
        """Seconds from the file to the first token."""
        return self.reading + self.preprocessing + self.first_token

    def to_dict(self) -> dict[str, float]:
        """The seconds of this run, for JSON."""
        return {
            "reading": self.reading,
            "preprocessing": self.preprocessing,
            "ttft": self.first_token,
            "file_to_first_token": self.whole,
        }


def load_model(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    attn_implementation: str | None = None,
) -> tuple[Any, Any]:
    """A checkpoint's model, ready to answer, and its processor.

    The model's class is checked on the config, before any weights are read.

    Args:
        name: a folder, a bundled model's name, or an id on the Hugging Face Hub.
        dtype: "auto" (as the checkpoint says) or a torch name such as "bfloat16".
        device: "auto" (a GPU where there is one) or a torch name such as "cuda:1".
        device_map: transformers' own, such as "auto", to spread the model over devices instead.
        attn_implementation: transformers' own; None lets it choose.

    Raises:
        ModelError: there is no such checkpoint, or it cannot be loaded.
        UnsupportedModelError: no adapter knows its class.
        SettingsError: `dtype` or `device` is unknown.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor, PretrainedConfig

    where = device_named(device) if device_map is None else None
    precision = dtype if dtype == "auto" else dtype_named(dtype)
    place = located(name)
    settings = {"dtype": precision, "device_map": device_map, "attn_implementation": attn_implementation}
    try:
        config = config_of(place)
        with torch.device("meta"):
            adapter_for(AutoModelForImageTextToText.from_config(config))
        original = original_layout(PretrainedConfig.get_config_dict(place)[0])
        if original is not None:
            model, processor = original.load(place, **settings)
            return (model if where is None else model.to(where)), processor
        processor = AutoProcessor.from_pretrained(place)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            place, config=config, **settings, output_loading_info=True
        )
        model, loading = loaded
    except (ModelError, UnsupportedModelError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        # transformers' messages run over many lines; the first says what is wrong.
        raise ModelError(f"model {name}: {str(error).strip().splitlines()[0]}") from error
    if missing := sorted(loading["missing_keys"]):  # transformers would go on with random ones
        raise ModelError(f"model {name}: {len(missing)} of its weights are missing, such as {missing[0]}")
    if not hasattr(processor, "video_processor") or not processor.chat_template:
        raise ModelError(f"model {name}: its processor takes no video or has no chat template")
    return (model if where is None else model.to(where)).eval(), processor


def ask(
    model: Any,
    processor: Any,
    inputs: Any,
    method: Method,
    max_new_tokens: int = 64,
    streamer: BaseStreamer | None = None,
) -> Answer:
    """Answer greedily with `method` attached; `Method(retain_ratio=1)` gives the stock model's answer.

    `streamer` is transformers' own; it receives tokens as they are generated.
    """
    inputs = inputs.to(model.device, model.dtype)
    with torch.inference_mode(), method(model) as run:
        return answered(model, processor, inputs, run, max_new_tokens, streamer)


def answered(
    model: Any,
    processor: Any,
    inputs: Any,
    run: Run,
    max_new_tokens: int = 64,
    streamer: BaseStreamer | None = None,
) -> Answer:
    """The greedy answer of a model to `inputs` on its device, with the method of `run` attached."""
    ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert run.last is not None, "the prompt holds a video"
    return Answer(processor.decode(new, skip_special_tokens=True).strip(), len(new), run.last)


def unknown_words(processor: Any, question: str) -> bool:
    """Whether the model's tokenizer has no token for a word of the question (the bundled one has few
    words)."""
    tokenizer = processor.tokenizer
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown in tokenizer(question)["input_ids"]


def slow_precision(model: Any) -> bool:
    """Whether the model is in 16 bits on a processor that has no instructions for them.

    Its linear layers then take about nine times as long as in float32 (AMD EPYC, torch 2.15.0).
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return model.dtype in supported and not supported[model.dtype]()


def device_named(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one.

    Raises:
        SettingsError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device {name!r}: PyTorch finds no CUDA device here; cpu or auto works")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # the meta device has no memory to read
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(f"device {name!r} is not to be had here (cpu, cuda, cuda:1, mps, ...)") from error
    return device


def dtype_named(name: str, auto: bool = True) -> torch.dtype:
    """The precision called `name`: float32, bfloat16 or float16.

    Args:
        name: the name.
        auto: whether the caller takes "auto" too, which the error then names.

    Raises:
        SettingsError: `name` is another.
    """
    if name not in DTYPES:
        known = ("auto", *DTYPES) if auto else DTYPES
        raise SettingsError(f"dtype must be {', '.join(known[:-1])} or {known[-1]}, not {name!r}")
    found: torch.dtype = getattr(torch, name)
    return found
