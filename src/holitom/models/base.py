"""The base of model adapters, through which the runtime uses a model. A new family is one subclass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from holitom.errors import SettingsError, UnsupportedModelError, UnsupportedUsageError
from holitom.models.interface import check_interface, interface_error
from holitom.models.parts import Parts
from holitom.ops.host import host_values, sent
from holitom.tokens import MergedTokens, VideoTokens

if TYPE_CHECKING:
    from holitom.contract import AnyStage

# Decoders that use `sliding_window` even where `layer_types` lists full attention.
READ_WINDOW = ("mistral", "qwen3_moe")


@dataclass(frozen=True)
class SentTokens:
    """Tokens that replace one video's placeholders, in the order in which they are sent.

    Attributes:
        features: `[S, D]`: merged tokens and the family's own separators (newlines).
        slot: `[S]` int64: the placeholder (0-based, within its video) that each token stands at.
        streams: `[S, E]`: the merged tokens' streams; None where the family has none.
        place: `[S]` int64: the place `t * N + n` of each token in the video, -1 for a separator. None: the
            same as `slot`.
    """

    features: Tensor
    slot: Tensor
    streams: Tensor | None = None
    place: Tensor | None = None

    @property
    def carried(self) -> Tensor:
        """Features and streams side by side, `[S, D + E]`."""
        return self.features if self.streams is None else torch.cat([self.features, self.streams], dim=-1)


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images, some of which are frames of videos; only the prompt tells which.

    Attributes:
        features: `[S, D]`: the tokens of all images, one image after the other.
        importance: `[S]` float32, as in `VideoTokens`.
        sizes: rows and columns of each image's tokens.
        keys: `[S, d]`, as in `VideoTokens`; None where the method needs none.
        shallow: `[S]` float32, as in `VideoTokens`; None where the method needs none.
        left: `[S]` bool on the host: whether the tower has left the token's image, where it merges whole
            frames; None: all are left.
        timed: as in `VideoTokens`.
    """

    features: Tensor
    importance: Tensor
    sizes: tuple[tuple[int, int], ...]
    keys: Tensor | None = None
    shallow: Tensor | None = None
    left: Tensor | None = None
    timed: bool = False

    def frames(self, tokens: Tensor, grid: tuple[int, int], count: int) -> VideoTokens:
        """Select the tokens `tokens` `[T * N]` int64 as a video of `count` frames with `grid` each."""
        at = sent(tokens, self.features.device)
        keys = None if self.keys is None else self.keys[at].view(count, -1, self.keys.shape[-1])
        features = self.features[at].view(count, -1, self.features.shape[-1])
        left = None if self.left is None else self.left[tokens.view(count, -1)[:, 0]].nonzero()[:, 0]
        return VideoTokens(
            features,
            self.importance[at].view(count, -1),
            grid,
            keys,
            shallow=None if self.shallow is None else self.shallow[at].view(count, -1),
            left=None if left is None or len(left) == count else tuple(left.tolist()),
            timed=self.timed,
        )


class Adapter(ABC):
    """One model of one family: its modules, and the computations that differ between families.

    Attributes:
        model: the whole model, whose `forward` takes labels and which has `generate`.
        config: its config.
        trunk: module whose `forward` takes `input_ids`, fills in visual features and calls `language_model`;
            its `encoder` encodes videos.
        language_model: decoder that takes `inputs_embeds`.
        layers: the decoder's layers. Layers that attend have `self_attn`; others (gated delta nets) carry a
            state from token to token.
        tower: the vision tower.
        vision_layers: the tower's layers.
        vision_attention: attention module of the tower's layer whose output becomes the features.
        streams: number of the first decoder layers whose output gets further visual features added.
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

    language_arguments: tuple[str, ...] = ()
    """Arguments of `language_model`, besides those of every family, that `stream_arguments` replaces."""

    rotate: ClassVar[Callable[..., tuple[Tensor, Tensor]]] = staticmethod(apply_rotary_pos_emb)
    """The decoder's `apply_rotary_pos_emb`."""

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

    streams: int = 0
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
        self.layers: Any = self._at(self.language_model, "layers")
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

    @property
    def placeholder(self) -> int | None:
        """The id of a placeholder; None where the config names none, so that no prompt can hold a video."""
        token: int | None = getattr(self.config, self.token)
        return token

    def attends(self, layer: int) -> bool:
        """Whether decoder layer `layer` (0-based) attends to keys; else it carries a recurrent state."""
        return hasattr(self.layers[layer], "self_attn")

    def ranked_by(self, stage: AnyStage) -> int:
        """The layer whose attention ranks tokens for `stage`: `stage.layer` itself or a layer before it.

        Where the stage's own choice is a layer without attention, the nearest attention layer before it
        ranks.

        Raises:
            SettingsError: there is no attention layer before it.
        """
        wanted = stage.layer if stage.own_attention else stage.layer - 1
        for layer in range(wanted, -1, -1):
            if self.attends(layer):
                return layer
        first = next((layer for layer in range(len(self.layers)) if self.attends(layer)), len(self.layers))
        raise SettingsError(
            f"inner merging at layer {stage.layer}: this model's layers before {first} do not attend, so "
            f"there is nothing to rank tokens by; merge at layer {first + 1} or later"
        )

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

    def check_prompt(self, input_ids: Tensor, arguments: dict[str, Any]) -> None:  # noqa: B027
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
    def videos(
        self,
        encoded: Any,
        arguments: dict[str, Any],
        importance: Tensor | None,
        keys: Tensor | None = None,
    ) -> list[Any]:
        """Divide the result of one call of `trunk`'s `encoder` into `VideoTokens`, one for each video.

        Where only the prompt tells what a video is, the result is one `EncodedImages`, of which `locate`
        makes videos.

        Args:
            encoded: the result of the call.
            arguments: its arguments by name.
            importance: importance of all patches; None where the method needs none (then it is set to 0).
            keys: keys of all patches; None where the method needs none.

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

    def attention_input(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Input `[B, S, D]` of the attention of decoder `layer` when `hidden` `[B, S, D]` enters the
        layer."""
        decoder_layer: Any = layer
        normed: Tensor = decoder_layer.input_layernorm(hidden)
        return normed

    def query(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated queries `[B, heads, S, d]` of decoder attention `attention` for its input `[B, S, D]`."""
        return self._rotated(self.decoder_heads(attention, "q", hidden), rotary)

    def key(self, attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated keys `[B, kv_heads, S, d]`, likewise."""
        return self._rotated(self.decoder_heads(attention, "k", hidden), rotary)

    def decoder_heads(self, attention: Any, which: str, hidden: Tensor) -> Tensor:
        """Queries ("q") or keys ("k") `[B, S, heads, d]` of decoder attention `attention`, unrotated."""
        heads: Tensor = getattr(attention, f"{which}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{which}_norm", None)  # Qwen3 normalises each head
        return heads if norm is None else norm(heads)

    def _rotated(self, heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        heads = heads.transpose(1, 2)
        return type(self).rotate(heads, heads, *rotary)[0]

    def streamed(self, arguments: dict[str, Any], columns: tuple[int, int]) -> list[Tensor]:
        """Visual features that are added to the output of the first `streams` decoder layers.

        Args:
            arguments: arguments of `language_model`'s forward, by name.
            columns: `(B, L)`.

        Returns:
            `[B, L, D]` for each of these layers, zero where nothing is added.
        """
        return []

    def stream_arguments(self, streams: list[Tensor], stands: Tensor) -> dict[str, Any]:
        """Arguments of `language_model` with which it adds `streams` to packed tokens.

        Args:
            streams: `[n, D]` for each of the first layers, for the tokens of all rows, row after row.
            stands: `[B, width]` bool: whether a token has streams; `n` entries are true.
        """
        return {}

    @staticmethod
    def no_importance(features: Tensor) -> Tensor:
        """Importance where no method reads it: zeros of the shape of `features` without `D`."""
        return torch.zeros(features.shape[:-1], device=features.device)


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
