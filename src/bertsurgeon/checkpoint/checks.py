"""Checks of the files of a model before it is built, and of a model before it is used."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.errors import CheckpointError, ModelError, first_line
from bertsurgeon.files import special_file

FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    UnpicklingError,
)
"""Errors that other libraries raise for wrong values in a config.json and for damaged pickles of weights."""

COMPILED = "_orig_mod."
"""What ``torch.compile`` adds to the names of the parts of a module."""

OLD_BUFFERS = (".position_ids", ".token_type_ids", ".inv_freq", ".attn.bias", ".masked_bias")
"""Ends of the names of buffers that earlier versions of transformers saved, and that are computed today."""

UNUSABLE = {
    ("distance_embedding",): "its relative positions (position_embedding_type) have been removed from transformers; "
    "use a model with absolute positions",
    ("lora_", ".adapter"): "adapters that were never merged; merge them (merge_and_unload in peft) and save the model "
    "again",
}
"""Parts of the names of tensors without which a model gives other outputs, and what to do about them."""


def check_finite(model: PreTrainedModel) -> None:
    """Checks that no weight is NaN or infinite.

    Raises:
        ModelError: Naming the first tensor that holds one.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.detach()).all():
            raise ModelError(
                f"The weights of {name} are not finite (NaN or infinity); the model is broken, train it anew."
            )


def check_masked_lm(model: PreTrainedModel) -> None:
    """Checks that a model has a masked-language-model head.

    Raises:
        ModelError: If it has none.
    """
    if model.get_output_embeddings() is None:
        raise ModelError(
            f"A {type(model).__name__} has no masked-language-model head; name a model with one, as it comes from "
            "pre-training."
        )


def check_tensors(name: str | Path, faults: dict[str, str]) -> None:
    """Refuses a model whose tensors do not fit its configuration.

    Args:
        name: The model.
        faults: What is wrong with each tensor that does not fit, by its name.

    Raises:
        CheckpointError: Naming the first such tensor.
    """
    if faults:
        key = min(faults)
        raise CheckpointError(
            f"The weights of {name} do not fit its config.json ({key} {faults[key]}); copy the model again."
        )


def check_prefix(name: str | Path, absent: Iterable[str], present: Iterable[str]) -> None:
    """Refuses a checkpoint whose tensors have the right names behind a prefix, as wrapped models are saved.

    Args:
        name: The model.
        absent: Names of the tensors that are missing.
        present: Names of the tensors that the model has no place for.

    Raises:
        CheckpointError: If one of the missing tensors is there with a prefix.
    """
    missing = set(absent)
    for key in present:
        for start in _ends_of_parts(key):
            if key[start:] in missing:
                raise CheckpointError(
                    f"The names of the weights of {name} have the prefix {key[:start]!r}, as those of a compiled or "
                    "wrapped model; save the model inside it, or remove the prefix from the names."
                )
        if key.replace(COMPILED, "") in missing:
            raise CheckpointError(
                f"The names of the weights of {name} hold {COMPILED!r}, as those of a model with compiled parts; save "
                "the model without them, or remove this from the names."
            )


def check_unused(name: str | Path, model: PreTrainedModel, unused: Iterable[str], new_head: bool = False) -> None:
    """Refuses a dense checkpoint with tensors of the encoder or the head that have no place; a note names other heads.

    The pooler is no part of a model whose head does not use it.

    Args:
        name: The model.
        model: The model that was loaded.
        unused: Names of the tensors in its files that it has no place for.
        new_head: Whether the model gets a new head, so that any other may be left out.

    Raises:
        ModelError: If tensors of the encoder, or of the head of this model, have no place in it.
    """
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    unused = [key for key in unused if not key.endswith(OLD_BUFFERS)]
    parts = {part for part, _ in model.base_model.named_children()} - {"pooler"}
    keys = sorted(key for key in unused if key.startswith(body) and key.removeprefix(body).split(".")[0] in parts)
    for words, remedy in UNUSABLE.items():
        key = next((key for key in keys if any(word in key for word in words)), None)
        if key is not None:
            raise ModelError(f"{name} has weights that transformers does not use ({key}): {remedy}.")
    is_bare = new_head or not body
    heads = set() if is_bare else {part for part, _ in model.named_children()} - {model.base_model_prefix}
    keys += sorted(key for key in unused if key.split(".")[0] in heads and key not in keys)
    if keys:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise ModelError(
            f"{name} has weights that its model has no place for: {keys[0]}{more}; it would answer differently without "
            "them. Save the model from the class that its config.json names, or remove these weights if they are not "
            "needed."
        )
    others = sorted({key.split(".")[0] for key in unused if not key.startswith(body or "\0")})
    if others:
        progress.note_once(f"{name} has weights of other heads, which are left out: {', '.join(others)[:120]}.")


def _ends_of_parts(key: str) -> list[int]:
    """Returns the positions after the dots of a name."""
    return [index + 1 for index, letter in enumerate(key) if letter == "."]


def check_headers(folder: Path) -> None:
    """Reads the header of every safetensors file, which fails on truncated files.

    Raises:
        CheckpointError: Naming the first damaged file.
    """
    special = special_file(path for name in ("*.safetensors", "*.bin") for path in sorted(folder.glob(name)))
    if special is not None:
        raise CheckpointError(f"{special} is no regular file; copy the model again.")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated ({first_line(error)}); copy it again.") from error


def check_pickles(folder: Path) -> None:
    """Reads all weights in PyTorch's own format, if the folder holds no safetensors files.

    Raises:
        CheckpointError: Naming the first damaged file.
    """
    if any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.glob("pytorch_model*.bin")):
        try:
            is_intact = isinstance(torch.load(path, map_location="meta", weights_only=True), Mapping)
        except (OSError, *FAULTS):
            is_intact = False
        if not is_intact:
            raise CheckpointError(f"{path} is damaged, or holds more than weights; copy it again.")


def unusable_model(name: str | Path, error: Exception) -> CheckpointError:
    """Returns the error to raise if another library failed to build or fill a model."""
    cause = f"{type(error).__name__}: {first_line(error)}"
    return CheckpointError(f"No model can be made of {name} ({cause}); check its config.json and its weights.")
