"""Saving models, and reports, completely or not at all."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import distributed
from bertsurgeon.checkpoint.files import new_folder
from bertsurgeon.embedder import COMPANIONS, Embedder
from bertsurgeon.errors import CheckpointError


def save_model(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reports: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a model with its tokenizer; the folder is there completely or not at all.

    Of several processes the first one writes; all have to call this.

    Args:
        model: Pruned or dense.
        folder: Where to.
        tokenizer: Saved beside the model.
        reports: Plain data to write as JSON, by file name.
        overwrite: Replace an existing folder.

    Raises:
        CheckpointError: If the folder exists or cannot be written.
    """

    def write() -> None:
        with new_folder(folder, overwrite) as temporary:
            model.save_pretrained(temporary)
            if tokenizer is not None:
                own = tokenizer
                if isinstance(model, Embedder):  # whose own tokenizer may cut texts earlier
                    own = deepcopy(tokenizer)
                    own.model_max_length = model.max_seq_length
                own.save_pretrained(temporary)
            for name, content in getattr(model, COMPANIONS, {}).items():
                (temporary / name).write_text(content, encoding="utf-8")
            for name, content in (reports or {}).items():
                (temporary / name).write_text(_as_json(content), encoding="utf-8")

    distributed.run_on_main(write)


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Writes plain data as JSON; a file that is there is replaced at once.

    Raises:
        CheckpointError: If it cannot be written.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(_as_json(content), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CheckpointError(f"{file} cannot be written: {error.strerror}.") from error


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"
