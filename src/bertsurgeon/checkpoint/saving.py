"""Saving models and reports, completely or not at all."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import distributed
from bertsurgeon.checkpoint.integrity import seal
from bertsurgeon.checkpoint.output_folder import add_recorded_file, new_folder
from bertsurgeon.embedder import Embedder
from bertsurgeon.sentence_folders import COMPANIONS

README = "README.md"

HOW_TO_LOAD = """# A pruned model

This checkpoint needs the package bertsurgeon (`pip install bertsurgeon`), and its import before the model is loaded:

```python
import bertsurgeon  # registers the checkpoint format
from {package} import {name}

model = {call}
```

Without the import, transformers warns of an unknown quantization type `bertsurgeon` and refuses the weights.
Do not set `ignore_mismatched_sizes=True`: the model would get random weights.
"""


def save_model(
    model: PreTrainedModel,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    reports: dict[str, Any] | None = None,
    overwrite: bool = False,
    *,
    texts: dict[str, str] | None = None,
    describe: Callable[[Path], dict[str, str]] | None = None,
) -> None:
    """Saves a model with its tokenizer; the folder is complete or absent.

    Of several processes the first one writes; all have to call this.

    Args:
        model: A pruned or dense model.
        folder: The output folder.
        tokenizer: Saved beside the model, if given.
        reports: Plain data to write as JSON, by file name.
        overwrite: Replace a folder that a command, or this function, wrote.
        texts: Text files to write, such as a model card, by file name; None for a README.md beside a pruned or sparse
            model, which tells how to load it.
        describe: Returns more such files once the model is in the folder that it is called with, before anyone can see
            that as ``folder``.

    Raises:
        CheckpointError: If the folder exists and may not be replaced, or cannot be written.
    """
    if texts is None:
        texts = {README: _how_to_load(model)} if getattr(model, "hf_quantizer", None) is not None else {}

    def write() -> None:
        with new_folder(Path(folder), overwrite) as temporary:
            model.save_pretrained(temporary)
            seal(temporary)
            if tokenizer is not None:
                _tokenizer_of(model, tokenizer).save_pretrained(temporary)
            for name, content in getattr(model, COMPANIONS, {}).items():
                (temporary / name).write_text(content, encoding="utf-8")
            for name, content in (reports or {}).items():
                (temporary / name).write_text(as_json(content), encoding="utf-8")
            described = {} if describe is None else describe(temporary)
            for name, text in {**texts, **described}.items():
                (temporary / name).write_text(text, encoding="utf-8")

    distributed.run_on_main(write)


def _how_to_load(model: PreTrainedModel) -> str:
    """Returns a text for people who find the folder of a pruned model without this package."""
    name = "SentenceTransformer" if isinstance(model, Embedder) else type(model).__name__
    package = "sentence_transformers" if isinstance(model, Embedder) else "transformers"
    call = "SentenceTransformer(FOLDER)" if isinstance(model, Embedder) else f"{name}.from_pretrained(FOLDER)"
    return HOW_TO_LOAD.format(name=name, package=package, call=call)


def write_report(file: str | Path, content: dict[str, Any] | str) -> None:
    """Writes plain data as JSON, or a text; an existing file is replaced at once.

    Args:
        file: Where to write. In a folder of ours it is added to the folder's record.
        content: The data, or the text.

    Raises:
        CheckpointError: If it cannot be written.
    """
    file = Path(file)
    add_recorded_file(file.parent, file.name, content if isinstance(content, str) else as_json(content))


def _tokenizer_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns the tokenizer to save; that of an embedder truncates where the embedder does."""
    if not isinstance(model, Embedder):
        return tokenizer
    truncating = deepcopy(tokenizer)
    truncating.model_max_length = model.max_seq_length
    return truncating


def as_json(content: dict[str, Any]) -> str:
    """Returns plain data as JSON text, as files hold it."""
    return json.dumps(content, indent=1) + "\n"
