"""Convert a task's generation arguments to those of `generate`, and stop answers at stop strings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

DEFAULT_NEW_TOKENS = 1024
SAMPLING = ("temperature", "top_p", "top_k")
PASSED_ON = ("max_new_tokens", "num_beams", "repetition_penalty")


@dataclass(frozen=True)
class Generation:
    """Generation settings of a group of questions.

    Attributes:
        arguments: arguments of `generate`.
        stops: strings that end an answer and do not belong to it.
    """

    arguments: dict[str, Any]
    stops: tuple[str, ...]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Generation:
        """Read a task's generation arguments.

        A temperature of 0, or none without `do_sample`, is greedy. Arguments that `generate` does not take
        (image settings of other models) are left out with a warning.
        """
        arguments = {name: given[name] for name in PASSED_ON if given.get(name) is not None}
        arguments.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
        temperature = given.get("temperature")
        sample = bool(given.get("do_sample", temperature)) and temperature != 0
        arguments["do_sample"] = sample
        arguments |= {name: given.get(name) if sample else None for name in SAMPLING}
        until = given.get("until") or []
        stops = [until] if isinstance(until, str) else until
        if unused := sorted(set(given) - {*PASSED_ON, *SAMPLING, "do_sample", "until"}):
            logging.getLogger(__name__).warning("generation arguments without a use: %s", ", ".join(unused))
        return cls(arguments, tuple(stop for stop in stops if stop))

    def cut(self, text: str) -> str:
        """`text` up to the first stop string."""
        return text[: min((text.find(stop) for stop in self.stops if stop in text), default=len(text))]


class Until(StoppingCriteria):
    """Ends a row once its answer contains a stop string, however it is divided into tokens."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int) -> None:
        self._tokenizer, self._stops, self._prompt = tokenizer, stops, prompt
        # A token is at least one byte, so the last tokens in this number contain any stop string at the end.
        self._window = max(len(stop.encode()) for stop in stops)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        new = input_ids[:, max(self._prompt, input_ids.shape[1] - self._window) :]
        texts = self._tokenizer.batch_decode(new)
        return torch.tensor(
            [any(stop in text for stop in self._stops) for text in texts], device=input_ids.device
        )
