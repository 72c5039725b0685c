"""The names of lmms-eval that the model derives from, overrides, calls and reads, and the tested releases."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from holitom.errors import InterfaceError, UnsupportedUsageError
from holitom.integrations.interfaces import broken, installed

TESTED = ("0.7.3",)
"""lmms-eval releases that the tests ran on."""

CONTRACT = """
lmms_eval.models.registry_v2
    ModelManifest(model_id, chat_class_path)

lmms_eval.api.model
    lmms()
    lmms.is_simple
    lmms._rank
    lmms._world_size
    lmms.rank
    lmms.world_size
    lmms.task_dict
    lmms.generate_until(requests)
    lmms.generate_until_multi_round(requests)
    lmms.loglikelihood(requests)
    lmms.clean()

lmms_eval.evaluator
    calls clean

lmms_eval.api.instance
    Instance.args
    GenerationResult(text, token_counts)
    TokenCounts(input_tokens, output_tokens)

lmms_eval.models.model_utils.gen_metrics
    log_metrics(total_elapsed_time, total_gen_tokens, avg_speed, additional_metrics)

lmms_eval.api.task
    ConfigurableMessagesTask.doc_to_messages(doc, round_idx, previous_output, previous_round_info)
"""


def check() -> None:
    """Check the installed lmms-eval. Where none is installed nothing happens, since its import will fail.

    Raises:
        UnsupportedUsageError: its version was not tested.
        InterfaceError: it lacks a name of `CONTRACT`.
    """
    sources = installed("lmms_eval")
    if sources is None:
        return
    check_version(version("lmms-eval"))
    gone = broken(sources, CONTRACT)
    if gone:
        raise InterfaceError.of("lmms-eval", " and ".join(TESTED), "; ".join(gone))


def check_version(found: str) -> None:
    """Raise `UnsupportedUsageError` unless lmms-eval `found` was tested."""
    if found not in TESTED:
        raise UnsupportedUsageError(
            f"holitom does not know the interfaces of lmms-eval {found}: it was tested with "
            f"{' and '.join(TESTED)}; install it (pip install lmms-eval=={TESTED[-1]}), or run `make "
            "test-lmms-eval` with the other and add it to TESTED in "
            "holitom/integrations/lmms_eval/contract.py"
        )


def arguments_of(request: Any) -> tuple[str, Any, dict[str, Any], Any, str, str]:
    """Unpack a request to generate.

    Returns:
        The prompt's text, the function that makes a document's messages, arguments of the generation, the
        document's number, the task's name, the split.

    Raises:
        InterfaceError: the request holds something else.
    """
    given = request.args
    if len(given) == 6:
        text, messages_of, generation, document, task, split = given
        if callable(messages_of) and isinstance(generation, dict) and isinstance(task, str):
            return text, messages_of, generation, document, task, split
    held = ", ".join(type(each).__name__ for each in given)
    raise InterfaceError.of(
        "lmms-eval",
        " and ".join(TESTED),
        f"a request holds ({held}) in the place of (str, function, dict, document, task, split)",
    )
