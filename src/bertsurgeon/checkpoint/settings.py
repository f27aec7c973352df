"""Entries of a model's configuration that commands cannot work with, and the values they get when it is loaded."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint.tokenizer import load_tokenizer
from bertsurgeon.errors import BertSurgeonError

OUTPUT_ENTRIES: dict[str, bool] = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
}
"""Entries that change what every forward pass returns, with the values that this library works with."""


def reset_outputs(config: PretrainedConfig, name: str | Path) -> None:
    """Resets the entries of a configuration that add outputs, or remove their names; a note names them.

    transformers loads a model with ``output_attentions`` but refuses to save it, unless its attention is ``eager``.

    Args:
        config: Configuration, changed in place.
        name: The model, for the note.
    """
    changed = [entry for entry, value in OUTPUT_ENTRIES.items() if getattr(config, entry, value) not in (value, None)]
    for entry in changed:
        setattr(config, entry, OUTPUT_ENTRIES[entry])
    if changed:
        entries = ", ".join(changed)
        progress.note_once(f"The config.json of {name} sets {entries}; ignored here, and not saved.")


def set_padding(model: PreTrainedModel, name: str | Path) -> None:
    """Sets the padding id of a decoder without one, whose classifier finds the last token of a text by it.

    Args:
        model: The model; its configuration is changed in place.
        name: Folder or hub id, for its tokenizer and the note.
    """
    config: Any = model.config
    if getattr(config, "pad_token_id", None) is not None or not get_architecture(config.model_type).decoder:
        return
    try:
        number = load_tokenizer(name).pad_token_id
    except BertSurgeonError:  # reported where the tokenizer is needed
        number = config.eos_token_id
    if isinstance(number, int):
        config.pad_token_id = number
        progress.note_once(f"The config.json of {name} has no pad_token_id; set to {number}, that of its tokenizer.")
