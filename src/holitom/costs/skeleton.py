"""Models on the meta device, without weights, on which operations are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from holitom.costs.published import PUBLISHED, published_config
from holitom.errors import ModelError
from holitom.hub import located
from holitom.models import config_of


def skeleton(name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Make a model of its real class on the meta device, with shapes and without weights.

    Args:
        name: a name in `costs.published.PUBLISHED`, a checkpoint's folder, a config's JSON file, or an id
            on the Hugging Face Hub.
        dtype: dtype of the parameters, and so of the KV cache.

    Raises:
        ModelError: there is no such config, or no video model can be made of it.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForImageTextToText

    if "/" not in name and name not in PUBLISHED and not Path(name).exists():
        raise ModelError(f"model {name}: no such folder or config; published shapes: {', '.join(PUBLISHED)}")
    place = name if name in PUBLISHED or Path(name).is_file() else located(name)
    try:
        config = published_config(name) if name in PUBLISHED else config_of(place)
        with torch.device("meta"):
            # Eager attention has the products of fused attention, which is slow on the meta device.
            model: Any = AutoModelForImageTextToText.from_config(
                config, dtype=dtype, attn_implementation="eager"
            )
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError),
        StrictDataclassError,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model {name}: {lines[0]}") from error
    return model.eval()
