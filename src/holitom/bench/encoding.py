"""One run of the vision tower that several methods are timed on, each reading the tower for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from holitom.bench.machine import peak_memory
from holitom.bench.settings import Setting
from holitom.bench.shared import encoder_arguments
from holitom.models import adapter_for
from holitom.runtime.report import mark, seconds_between
from holitom.wrapping import Wrapped


class Encodings:
    """The runs of the vision tower on a prompt's video that settings share.

    Attributes:
        inputs: the processor's inputs.
        stock: the stock model's.
        attached: with a method attached; the same run where nothing of the encoder is replaced then.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs
        self.stock = self.attached = Encoding(model, inputs)
        adapter = adapter_for(model)
        replaced = adapter.replaced() if model.device.type == "cuda" else {}
        if replaced:
            with ExitStack() as wrapped:
                for name, instead in replaced.items():
                    wrapped.callback(Wrapped(adapter.trunk, name, instead).release)
                self.attached = Encoding(model, inputs)

    def of(self, setting: Setting) -> Encoding:
        """The run that `setting` uses."""
        return self.stock if setting.method is None else self.attached


class Encoding:
    """What the vision tower makes of a prompt's video, once, for all settings.

    `bench.shared` reads what any method needs while it encodes; here each method reads for itself, so that
    its time is known.

    Attributes:
        seconds: that it took.
        peak: bytes of memory that it took; None where unknown.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        adapter = adapter_for(model)
        self._trunk: Any = adapter.trunk
        self._encoder = adapter.encoder
        read: list[Any] = [adapter.vision_attention]
        if adapter.early:
            read.append(adapter.reading(adapter.shallow_layer).vision_attention)
        encode: Any = getattr(adapter.trunk, adapter.encoder)
        given = encoder_arguments(adapter, inputs)
        calls: list[Any] = []

        def see(module: Any, args: Any, kwargs: Any) -> None:
            calls.append((module, args, kwargs))

        with ExitStack() as hooks, peak_memory(model.device) as peak:
            for attention in dict.fromkeys(read):
                hooks.enter_context(attention.register_forward_pre_hook(see, with_kwargs=True))
            began = mark(model.device)
            output = encode(**given, return_dict=True)
            self.seconds = seconds_between(began, mark(model.device))
        self.peak = peak.bytes
        # Every layer's output is among the rest: gigabytes that nobody reads again.
        self._output = type(output)(
            **{name: part for name, part in output.items() if name != "hidden_states"}
        )
        self._calls = calls

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Give the model what was encoded inside the block; methods still read their attention."""
        encode, output = getattr(self._trunk, self._encoder), self._output

        @wraps(encode)
        def get_features(*args: Any, **kwargs: Any) -> Any:
            for attention, given, named in self._calls:
                attention.forward = wraps(attention.forward)(lambda *args, **kwargs: None)  # hooks, no more
                try:
                    attention(*given, **named)
                finally:
                    del attention.forward
            return type(output)(**output)

        setattr(self._trunk, self._encoder, get_features)
        try:
            yield
        finally:
            self._trunk.__dict__.pop(self._encoder, None)
