"""Checks of the files of a model before it is built, and of a model before it is used."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from bertsurgeon.errors import CheckpointError, ModelError, first_line

FAULTS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, UnpicklingError)
"""Errors that other libraries raise for wrong values in a config.json and for damaged pickles of weights."""


def check_finite(model: PreTrainedModel) -> None:
    """Checks that no weight is NaN or infinite.

    Raises:
        ModelError: Naming the first tensor that holds one.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
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


def check_headers(folder: Path) -> None:
    """Reads the header of every safetensors file, which fails on truncated files.

    Raises:
        CheckpointError: Naming the first damaged file.
    """
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
