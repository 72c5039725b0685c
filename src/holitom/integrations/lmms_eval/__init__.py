"""lmms-eval: `--model holitom` runs any supported model with any method on any of its generation tasks.

`manifest` is what the entry point group `lmms_eval.models` names. lmms-eval calls it whenever it is imported,
so nothing heavy may be imported here; `model.py` is loaded when the model is asked for.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """How lmms-eval finds the model: an `lmms_eval.models.registry_v2.ModelManifest`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="holitom", chat_class_path="holitom.integrations.lmms_eval.model.HolitomModel"
    )
