"""What files must hold before a model is made of them, and what a model must hold to be of use."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from bertsurgeon.errors import CheckpointError, ModelError, first_line

FAULTS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, UnpicklingError)
"""What wrong values in a config.json, and broken pickles of weights, end in deep inside other libraries."""


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
    """Checks that a model guesses hidden tokens.

    Raises:
        ModelError: If its head is another one.
    """
    if model.get_output_embeddings() is None:
        raise ModelError(
            f"A {type(model).__name__} does not guess hidden words; name a model with a masked-language-model head, as "
            "it comes from pre-training."
        )


def check_fit(name: str | Path, wrong: dict[str, str]) -> None:
    """Refuses a model for the first of its wrong tensors, if there are any."""
    if wrong:
        key = min(wrong)
        raise CheckpointError(
            f"The weights of {name} do not fit its config.json ({key} {wrong[key]}); copy the model again."
        )


def check_header(folder: Path) -> None:
    """Reads the header of every safetensors file, which fails on truncated files."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated ({first_line(error)}); copy it again.") from error


def check_pickles(folder: Path) -> None:
    """Reads all weights in PyTorch's own format, if these are what a folder holds."""
    if any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.glob("pytorch_model*.bin")):
        try:
            is_whole = isinstance(torch.load(path, map_location="meta", weights_only=True), Mapping)
        except (OSError, *FAULTS):
            is_whole = False
        if not is_whole:
            raise CheckpointError(f"{path} is damaged, or holds more than weights; copy it again.")


def unusable(name: str | Path, error: Exception) -> CheckpointError:
    """What to raise where building or filling a model failed deep inside other libraries."""
    said = f"{type(error).__name__}: {first_line(error)}"
    return CheckpointError(f"No model can be made of {name} ({said}); check its config.json and its weights.")
