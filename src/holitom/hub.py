"""Find a checkpoint: a folder, a copy in the Hugging Face cache, or an id on the Hugging Face Hub.

transformers requests every file from the Hub, and retries for half a minute where there is no network. Here
one request with a short limit finds out whether the Hub can be reached.
"""

from __future__ import annotations

import re
from pathlib import Path

from holitom.bundled import checkpoint
from holitom.errors import ModelError

SECONDS = 10.0  # limit of a request to the Hub

_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def check_name(name: str) -> None:
    """Raise a `ModelError` unless `name` is a folder, or has the form of a Hub id, `owner/name`."""
    if Path(name).is_dir():
        return
    if (url := re.match(r"[a-zA-Z][\w+.-]*://[^/]*/?", name)) is not None:
        rest = "/".join(name[url.end() :].split("/")[:2])
        known = f", such as {rest}" if _ID.fullmatch(rest) and "huggingface" in url[0] else ""
        raise ModelError(f"model {name} is a URL; give the hub id, owner/name{known}, or a folder")
    if Path(name).is_file():
        raise ModelError(f"model {name}: no such folder; it is a file")
    if not _ID.fullmatch(name) or name.startswith((".", "~")):
        raise ModelError(f"model {name}: no such folder, and no hub id, which is written owner/name")


def located(name: str) -> str:
    """Return `name` where it is a folder or the Hub has it; the cached copy's folder where the Hub fails.

    Args:
        name: a checkpoint's folder, a bundled model's name, or an id on the Hugging Face Hub.

    Raises:
        ModelError: `name` is neither, the Hub has no such model, or there is neither a copy nor a network.
    """
    name = checkpoint(name)
    check_name(name)
    if Path(name).is_dir():
        _check_folder(Path(name))
        return name
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = constants.ENDPOINT.partition("://")[2]
    why = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(name, timeout=SECONDS)
        except RepositoryNotFoundError:
            raise ModelError(
                f"model {name}: {where} has no such model (a private one needs `hf auth login`)"
            ) from None
        except HfHubHTTPError as error:
            code = error.response.status_code if error.response is not None else "no status"
            why = f"{where} answers with an error ({code})"
        except Exception:  # HTTP libraries raise errors of their own where there is no network
            why = f"{where} cannot be reached"
        else:
            return name
    try:
        return str(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        raise ModelError(
            f"model {name}: no such folder, no copy in the Hugging Face cache, and {why}"
        ) from None


def _check_folder(folder: Path) -> None:
    if (folder / "config.json").exists():
        return
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model {folder}: a LoRA adapter alone; merge it into its base model "
            "(PEFT's merge_and_unload), save that (save_pretrained), and give that folder"
        )
    raise ModelError(
        f"model {folder}: the folder has no config.json; give the one that save_pretrained wrote model "
        "and processor to"
    )
