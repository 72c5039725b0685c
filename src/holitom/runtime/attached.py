"""Check that a method and a model fit each other, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from holitom.contract import AnyStage, Merges
from holitom.errors import SettingsError
from holitom.models import adapter_for
from holitom.models.base import Adapter, require_modules
from holitom.models.interface import cache_name
from holitom.runtime import refusals
from holitom.runtime.embedded import ids_of
from holitom.runtime.positions import Numbering


@dataclass(frozen=True)
class Attached:
    """A method and a model that fit each other.

    Attributes:
        adapter: the model's adapter.
        method: the method.
        stages: the method's inner stages, by the layer before which each acts, ascending.
        ranked_by: for each of these layers, the layer whose attention ranks: itself or one before it.
        cache_name: name of the cache argument of the language model's forward.
    """

    adapter: Adapter
    method: Merges
    stages: Mapping[int, AnyStage]
    ranked_by: Mapping[int, int]
    cache_name: str

    @classmethod
    def of(cls, method: Merges, model: nn.Module) -> Attached:
        """Check the model, and resolve the method's stages on it.

        Raises:
            UnsupportedModelError: there is no adapter for the model.
            UnsupportedUsageError: the model is compiled.
            InterfaceError: the installed transformers differs from the tested ones.
            SettingsError: the method has a stage at a layer that the model does not have.
        """
        adapter = adapter_for(model)
        refusals.check_not_compiled(adapter.model)
        adapter.check()
        layers = len(adapter.layers)
        stages = {stage.layer: stage for stage in method.inner(layers)}
        for layer, stage in stages.items():
            if not 1 <= layer < layers:
                raise SettingsError(f"inner merging at layer {layer}: this model takes 1..{layers - 1}")
            if stage.keep(1) != 1:
                raise SettingsError(
                    f"inner merging at layer {layer} keeps none of a few visual tokens: its keep(1) must be 1"
                )
        ranked_by = {layer: adapter.ranked_by(stage) for layer, stage in sorted(stages.items())}
        for layer in ranked_by.values():
            ranks: Any = adapter.layers[layer]
            require_modules(ranks.self_attn, ("q_proj", "k_proj"), f"layer {layer} of the language model")
        return cls(
            adapter, method, dict(sorted(stages.items())), ranked_by, cache_name(adapter.language_model)
        )

    @property
    def first_stage(self) -> int:
        """The layer before which the first stage acts; the number of layers without stages."""
        return min(self.stages, default=len(self.adapter.layers))

    @property
    def numbering(self) -> Numbering:
        """How the tokens that are left get position ids."""
        if self.adapter.keeps_positions:
            return "columns"
        return "unmerged" if self.method.positions == "own" else "anew"

    def ids_of(self, embeds: Tensor) -> Tensor:
        """Find the ids `[B, L]` of a prompt that came as embeddings `[B, L, D]`."""
        return ids_of(embeds, self.adapter.trunk.get_input_embeddings())

    def merges_inside(self, counts: list[int]) -> bool:
        """Whether the inner stages drop any of the rows' `counts` video tokens."""
        for count in counts:
            left = count
            for stage in self.stages.values():
                left = stage.keep(left) if left > 0 else 0
            if left != count:
                return True
        return False
