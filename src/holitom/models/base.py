"""The base of model adapters, through which the runtime uses a model. A new family is one subclass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holitom.errors import UnsupportedModelError, UnsupportedUsageError
from holitom.models.decoder import DecoderAdapter
from holitom.models.interface import check_interface, interface_error
from holitom.models.parts import Parts
from holitom.models.values import Read, SentTokens
from holitom.ops.host import host_values
from holitom.tokens import MergedTokens, VideoTokens
from holitom.wrapping import Instead

# Decoders that use `sliding_window` even where `layer_types` lists full attention.
READ_WINDOW = ("mistral", "qwen3_moe")


class Adapter(DecoderAdapter, ABC):
    """One model of one family: its modules, and the computations that differ between families.

    Attributes:
        model: the whole model, whose `forward` takes labels and which has `generate`.
        config: its config.
        trunk: module whose `forward` takes `input_ids`, fills in visual features and calls `language_model`;
            its `encoder` encodes videos.
        language_model: decoder that takes `inputs_embeds`.
        tower: the vision tower.
        vision_layers: the tower's layers.
        vision_attention: attention module of the tower's layer whose output becomes the features.
        frames_per_step: frames that become one grid of tokens.
    """

    family: ClassVar[str]
    """The family's name in messages."""

    parts: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Supported `model_type`s of a part, by the name of its config. Parts that the class fixes are not
    listed."""

    settings: ClassVar[dict[str, tuple[object, ...]]] = {}
    """Supported values of fields of the config, by the field's name, where not all are."""

    layer_types: ClassVar[frozenset[str]] = frozenset({"full_attention"})
    """Supported types of decoder layers."""

    places: ClassVar[tuple[str, str, str]]
    """Attribute paths of the tower in `trunk`, of its layers in the tower, and of the attention in a
    layer."""

    decoder: ClassVar[str] = "language_model"
    """Attribute of `trunk` that holds the language model."""

    token: ClassVar[str] = "video_token_id"
    """Field of the config that holds the id of a placeholder."""

    projections: ClassVar[dict[str, str]] = {"q": "q_proj", "k": "k_proj"}
    """Attributes of the tower's attention that project queries and keys."""

    vision_arguments: ClassVar[tuple[str, ...]] = ("hidden_states",)
    """Arguments of the tower's attention that importance and keys are read from."""

    encoder_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of `encoder`, besides the pixels, that describe videos."""

    keeps_positions: ClassVar[bool] = False
    """Whether a token keeps the position ids of the column it stands at (multi-axis rotary positions); else
    the columns left of a row get new ids, without gaps."""

    modality: ClassVar[str] = "video"
    """Modality in the names of the encoder and its arguments: "image" where frames are images between
    texts."""

    early: ClassVar[bool] = True
    """Whether the tower's first layers have the same patches as its last, so that their attention can be
    read."""

    speaks: ClassVar[bool] = False
    """Whether the model is the thinker of one that speaks, whose talker reads hidden states of `generate`."""

    frames_per_step: int = 1

    def __init__(self, model: nn.Module) -> None:
        """Find the parts of `model`.

        Raises:
            UnsupportedModelError: the variant is not supported.
            InterfaceError: a part is not where the tested versions of transformers have it.
        """
        self.model = model
        self.config: Any = model.config
        self._check_config()
        tower, layers, attention = self.places
        self.trunk: Any = self._at(model, "model")
        self.language_model: Any = self._at(self.trunk, self.decoder)
        self.layers = self._at(self.language_model, "layers")
        self.tower: Any = self._at(self.trunk, tower)
        # In some versions of transformers LLaVA's tower is inside a module `vision_model`.
        blocks = self.vision_layers = self._at(getattr(self.tower, "vision_model", self.tower), layers)
        selected = getattr(self.config, "vision_feature_layer", -1)
        self.vision_attention: Any = self._at(self._feature_layer(blocks, selected), attention)
        names = tuple(dict.fromkeys(self.projections.values()))
        require_modules(self.vision_attention, names, f"{self.family}'s vision tower")

    def _check_config(self) -> None:
        """Raise `UnsupportedModelError` for a part or setting that is not supported, and for sliding
        windows."""
        for part, known in self.parts.items():
            self._supported(f"a {part} of type", getattr(self.config, part).model_type, known)
        text: Any = self.config.get_text_config()
        types, window = getattr(text, "layer_types", None), getattr(text, "sliding_window", None)
        windowed = window is not None and (types is None or text.model_type in READ_WINDOW)
        if windowed or set(types or ()) - self.layer_types or getattr(text, "attention_chunk_size", None):
            raise UnsupportedModelError(
                f"{self.family} with sliding-window layers; supported: use_sliding_window=False or "
                "sliding_window=None, whose cache keeps all columns"
            )
        for name, values in self.settings.items():
            self._supported(name, getattr(self.config, name), values)

    def _supported(self, what: str, value: object, known: tuple[object, ...]) -> None:
        """Raise `UnsupportedModelError` unless `value` is one of `known`."""
        if value not in known:
            raise UnsupportedModelError(
                f"{self.family} with {what} {value!r}; supported: {', '.join(map(repr, known))}"
            )

    def _at(self, module: Any, path: str) -> Any:
        """The module at `path` in `module`."""
        found = module
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is None:
            raise interface_error(
                f"{self.family} as this version of transformers lays it out: its {type(module).__name__} has "
                f"no {path}"
            )
        return found

    def _feature_layer(self, layers: nn.ModuleList, selected: object) -> Any:
        """The vision layer whose output becomes the features.

        `selected` counts hidden states, of which the embeddings are the first: 1 is the output of
        `layers[0]`, -1 that of the last layer. If it lists several, which are concatenated, the last counts.
        """
        indices = [selected] if isinstance(selected, int) else list(selected)  # type: ignore[call-overload]
        last = max(index % (len(layers) + 1) for index in indices)
        if not last:
            raise UnsupportedModelError(
                f"{self.family} with vision_feature_layer={selected!r}, the embeddings; supported: a layer"
            )
        return layers[last - 1]

    @property
    def shallow_layer(self) -> int:
        """Number (0-based) of the tower's early layer whose attention is `VideoTokens.shallow`."""
        return round(len(self.vision_layers) * 5 / 26)

    def reading(self, layer: int) -> Adapter:
        """Copy the adapter so that it reads importance and keys in the tower's `layer`."""
        other = copy.copy(self)
        other.vision_attention = self._at(self.vision_layers[layer], self.places[2])
        return other

    @property
    def encoder(self) -> str:
        """The method of `trunk` that encodes videos."""
        return f"get_{self.modality}_features"

    @property
    def pixels_name(self) -> str:
        """The encoder's first argument, which takes the pixels."""
        return "pixel_values_videos" if self.modality == "video" else "pixel_values"

    def features_in(self, arguments: Mapping[str, Any]) -> Any:
        """Return the result of `encoder` among arguments of `trunk`'s forward by name; None without one."""
        return (arguments.get("mm_encoder_outputs") or {}).get(self.modality)

    def brings(self, arguments: Mapping[str, Any]) -> bool:
        """Whether arguments of `trunk`'s forward by name have videos: pixels, or a result of `encoder`."""
        return arguments.get(self.pixels_name) is not None or self.features_in(arguments) is not None

    @property
    def placeholder(self) -> int | None:
        """The id of a placeholder; None where the config names none, so that no prompt can hold a video."""
        token: int | None = getattr(self.config, self.token)
        return token

    def check(self) -> None:
        """Check what a live run needs and cost counting does not. Called on attach.

        Raises:
            UnsupportedModelError: something is missing that the config does not tell (such as a tokenizer).
            InterfaceError: a forward takes other arguments than in the tested versions of transformers.
        """
        check_interface(self)

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Whether each of `input_ids` `[B, L]` is a placeholder of a video token, `[B, L]` bool."""
        return self.is_token(input_ids, self.placeholder)

    @staticmethod
    def is_token(input_ids: Tensor, token: int | None) -> Tensor:
        """Whether each of `input_ids` is `token`, `[B, L]` bool; none is if `token` is None."""
        held: Tensor = torch.zeros_like(input_ids, dtype=torch.bool) if token is None else input_ids == token
        return held

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:
        """Check a prompt with new videos before anything is computed.

        Args:
            input_ids: `[B, L]`.
            arguments: the model's other arguments, by name.

        Raises:
            UnsupportedUsageError: the placeholders are not those of the videos among the arguments.
        """

    def check_placeholders(self, input_ids: Tensor, slots: Sequence[int]) -> None:
        """Raise `UnsupportedUsageError` unless every row of a prompt holds whole videos, in their order.

        Args:
            input_ids: `[B, L]`.
            slots: number of placeholders of each video.
        """
        if self.placeholder is None:
            raise UnsupportedUsageError(
                f"the config of this {self.family} names no {self.token}, so no prompt can hold a video; set "
                f"model.config.{self.token} to the processor's"
            )
        rows: list[int] = self.placeholders(*host_values(input_ids)).sum(1).tolist()
        ends = set(accumulate(slots, initial=0))
        if sum(rows) != sum(slots) or not ends.issuperset(accumulate(rows)):
            raise UnsupportedUsageError(
                f"the prompt's rows hold {rows} video placeholders, and its videos are {list(slots)} tokens; "
                "pass the ids that the processor made for these videos, with a processor that fits the model"
            )

    @abstractmethod
    def importance(self, arguments: dict[str, Any], lengths: Sequence[int] = ()) -> Tensor:
        """Compute the attention that each patch receives in the vision layer that is read.

        Args:
            arguments: arguments of `vision_attention`'s forward, by name; `hidden_states` is `[F, P, D]` or,
                in a packed tower, `[P, D]`.
            lengths: `attention_lengths` of the encoded videos; empty: a packed tower reads `cu_seqlens` from
                the device, which is a device synchronisation.

        Returns:
            `[F, P]` or `[P]` float32.
        """

    def attention_lengths(self, arguments: dict[str, Any]) -> list[int]:
        """Number of patches in each frame or crop, which attend to each other; empty if the tower is not
        packed.

        Args:
            arguments: arguments of `trunk`'s `encoder`, by name.
        """
        return []

    def in_parts(self, arguments: dict[str, Any]) -> Parts | None:
        """A call of `trunk`'s `encoder` in parts of a few frames; None where it cannot be parted.

        Args:
            arguments: of the call, by name.
        """
        return None

    def replaced(self) -> dict[str, Instead]:
        """Functions of `trunk`, by name, that equal ones replace while a method is attached."""
        return {}

    @abstractmethod
    def keys(self, arguments: dict[str, Any]) -> Tensor:
        """Compute keys of the vision layer that is read, averaged over heads (`[F, P, d]` or `[P, d]`).

        Keys are the projections of each patch, before the tower's rotary position embedding.
        """

    def heads(self, hidden: Tensor, *which: str) -> list[Tensor]:
        """Project the vision attention's input `[..., D]` to queries ("q") and keys ("k") `[..., heads,
        d]`."""
        attention = self.vision_attention
        return [
            getattr(attention, self.projections[name])(hidden).unflatten(-1, (attention.num_heads, -1))
            for name in which
        ]

    @abstractmethod
    def videos(self, encoded: Any, arguments: dict[str, Any], read: Read) -> list[Any]:
        """Divide the result of one call of `trunk`'s `encoder` into `VideoTokens`, one for each video.

        Where only the prompt tells what a video is, the result is one `EncodedImages`, of which `locate`
        makes videos.

        Args:
            encoded: the result of the call.
            arguments: its arguments by name.
            read: what the method reads of all patches.

        Raises:
            UnsupportedUsageError: the result has other sizes than the arguments say.
        """

    def located_by(self, given: dict[str, Any]) -> list[Tensor]:
        """Return what `locate` reads of a prompt, on the host; here nothing.

        Args:
            given: arguments of `trunk`'s forward by name, with `input_ids`.
        """
        return []

    def locate(self, encodings: list[Any], read: list[Tensor]) -> list[VideoTokens]:
        """Return the videos of a prompt, in reading order.

        Args:
            encodings: what `videos` returned when they were encoded.
            read: what `located_by` returned for the prompt.

        Raises:
            UnsupportedUsageError: the prompt's placeholders are not those of the encoded videos.
        """
        return encodings

    def send(self, video: VideoTokens, merged: MergedTokens) -> SentTokens:
        """Order the merged tokens of `video` as they are sent, with separators; here by the grid, without."""
        slot, order = (merged.frame * video.features.shape[1] + merged.position).sort()
        return SentTokens(
            features=merged.features[order],
            slot=slot,
            streams=None if merged.streams is None else merged.streams[order],
        )

    def slots(self, video: VideoTokens) -> int:
        """Number of placeholders of `video` in the prompt, separators included; here one for each token."""
        return prod(video.features.shape[:2])


def require_modules(attention: nn.Module, names: tuple[str, ...], whose: str) -> None:
    """Raise `UnsupportedModelError` unless `attention` has the projections that queries and keys come from.

    A quantised or fused attention without these modules cannot be read; an attention whose linear layers are
    quantised one by one can.

    Args:
        attention: the attention module.
        names: attributes of the projections.
        whose: the part of the model that the attention belongs to, for the message.
    """
    for name in names:
        if not callable(getattr(attention, name, None)):
            raise UnsupportedModelError(
                f"{whose} has a {type(attention).__name__} without {name}, so what it attends to cannot be "
                "read; load the model without the quantisation or kernel that replaces its attention"
            )
