"""lmms-eval: `--model holitom` runs any supported model with any method on any of its generation tasks.

The entry point group `lmms_eval.models` names `manifest`. lmms-eval calls it whenever it is imported, so this
module imports nothing slow; `model.py` is imported when the model is chosen.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Make the `lmms_eval.models.registry_v2.ModelManifest` by which lmms-eval finds the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="holitom", chat_class_path="holitom.integrations.lmms_eval.model.HolitomModel"
    )
