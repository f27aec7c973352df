"""Comparison of an exported graph with the PyTorch model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bertsurgeon.calibration import Batch, count_samples
from bertsurgeon.errors import ExportError
from bertsurgeon.runtime import Precision, Session
from bertsurgeon.tasks import Head, model_inputs

Arrays = dict[str, np.ndarray[Any, Any]]

TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.1, "int8": 0.3}
"""Default limits of the relative error of the outputs."""


@dataclass(frozen=True)
class Check:
    """Differences between the outputs of an exported graph and those of PyTorch.

    Attributes:
        texts: Number of texts compared.
        relative_error: Root mean square of the differences divided by the standard deviation of PyTorch's outputs.
        largest_error: Maximum absolute difference of a single output.
        agreement: Share of equal predictions, in percent (:meth:`bertsurgeon.tasks.Head.agreement`); None for a model
            without a head.
    """

    texts: int
    relative_error: float
    largest_error: float
    agreement: float | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the check as plain data."""
        return asdict(self)


def to_arrays(batch: Mapping[str, torch.Tensor], names: Sequence[str]) -> Arrays:
    """Converts a batch to the inputs of a graph; missing token types are zero.

    Args:
        batch: Model inputs.
        names: Names of the graph's inputs.
    """
    arrays = {name: batch[name].cpu().numpy() for name in names if name in batch}
    for name in names:
        if name not in arrays:
            arrays[name] = np.zeros_like(arrays["input_ids"])
    return arrays


@torch.inference_mode()
def reference(
    model: PreTrainedModel, batches: Iterable[Batch], outputs: Sequence[str]
) -> tuple[tuple[str, ...], list[Arrays]]:
    """Runs the PyTorch model.

    Args:
        model: In evaluation mode.
        batches: At least one batch.
        outputs: Names of the outputs to return, if the model has them.

    Returns:
        Names of the outputs that the model has, and its outputs by name for each batch.
    """
    results: list[Arrays] = []
    for batch in batches:
        result = model(**{name: value.to(model.device) for name, value in model_inputs(batch).items()})
        results.append({name: result[name].float().cpu().numpy() for name in outputs if name in result})
    return tuple(results[0]), results


def run_session(session: Session, batches: Iterable[Batch], inputs: Sequence[str]) -> list[Arrays]:
    """Runs an exported graph.

    Args:
        session: The loaded graph.
        batches: Model inputs.
        inputs: Names of the graph's inputs.

    Returns:
        Outputs by name, for each batch.
    """
    return [session.run(to_arrays(batch, inputs)) for batch in batches]


def compare(
    outputs: Sequence[Arrays], expected: Sequence[Arrays], batches: Sequence[Batch], head: Head | None = None
) -> Check:
    """Compares outputs with those of PyTorch; padded tokens are ignored.

    Args:
        outputs: Outputs by name, for each batch.
        expected: Outputs of PyTorch, in the same form.
        batches: The inputs.
        head: The model's head, which defines agreement; None for a model without a known one.
    """
    masks = [batch.get("attention_mask", torch.ones(count_samples(batch), 1)).bool().cpu().numpy() for batch in batches]
    errors, largest = [], 0.0
    for name in expected[0]:
        values, targets = (
            np.concatenate(
                [
                    arrays[name][mask] if is_per_token(name, arrays[name], mask, head) else arrays[name]
                    for arrays, mask in zip(results, masks, strict=True)
                ]
            )
            for results in (outputs, expected)
        )
        differences = values - targets
        magnitude = np.sqrt(np.mean(targets**2))
        # the deviation of a single text is 0, and that of nearly equal outputs is close to it
        deviation = np.sqrt(np.mean((targets - targets.mean(0)) ** 2))
        scale = magnitude if len(targets) == 1 else max(deviation, 1e-3 * magnitude)
        errors.append(float(np.sqrt(np.mean(differences**2)) / max(scale, np.finfo(np.float32).tiny)))
        largest = max(largest, float(np.abs(differences).max()))
    agreement = None if head is None else head.agreement(_to_tensors(outputs), _to_tensors(expected), batches)
    return Check(sum(map(len, masks)), max(errors), largest, agreement)


def is_per_token(name: str, array: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], head: Head | None) -> bool:
    """Returns whether an output has one entry per token.

    Args:
        name: Name of the output.
        array: The output for a batch.
        mask: Mask of the batch, shape (texts, tokens).
        head: The model's head; None if it is unknown.
    """
    if head is not None and name in head.outputs:
        return head.outputs[name]
    same_shape: bool = array.shape[:2] == mask.shape
    return same_shape


def _to_tensors(results: Sequence[Arrays]) -> list[dict[str, torch.Tensor]]:
    return [{name: torch.from_numpy(array) for name, array in arrays.items()} for arrays in results]


def require_agreement(check: Check, precision: Precision, limit: float, remedies: str) -> None:
    """Checks that the relative error does not exceed a limit.

    Args:
        check: The comparison with PyTorch.
        precision: Precision of the exported graph.
        limit: Maximum relative error.
        remedies: What helps, in the imperative.

    Raises:
        ExportError: If the error is larger, or not a number.
    """
    if not check.relative_error <= limit:
        raise ExportError(
            f"The exported {precision} model differs from PyTorch by {check.relative_error:.3g} of the standard "
            f"deviation of its outputs (allowed: {limit:.2g}), so nothing was written; {remedies}, or raise the "
            "tolerance if you accept other outputs."
        )
