"""Does an exported graph say what the PyTorch model says?"""

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
"""Largest relative error of the outputs an export may have."""


@dataclass(frozen=True)
class Check:
    """How outputs compare with PyTorch's.

    Attributes:
        texts: Number of texts that were compared.
        relative_error: Root mean square of the differences, as a share of the outputs' own deviation from their mean.
        largest_error: Of any single output.
        agreement: How often both say the same, in percent (:meth:`bertsurgeon.tasks.Head.agreement`); None for a model
            without a head.
    """

    texts: int
    relative_error: float
    largest_error: float
    agreement: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def to_arrays(batch: Mapping[str, torch.Tensor], names: Sequence[str]) -> Arrays:
    """The inputs a graph wants; token types that are missing are zero."""
    arrays = {name: batch[name].cpu().numpy() for name in names if name in batch}
    for name in names:
        if name not in arrays:
            arrays[name] = np.zeros_like(arrays["input_ids"])
    return arrays


@torch.inference_mode()
def reference(
    model: PreTrainedModel, batches: Iterable[Batch], outputs: Sequence[str]
) -> tuple[tuple[str, ...], list[Arrays]]:
    """What PyTorch says to each batch, by name of the output, and which of ``outputs`` the model has."""
    answers: list[Arrays] = []
    for batch in batches:
        found = model(**{name: value.to(model.device) for name, value in model_inputs(batch).items()})
        answers.append({name: found[name].float().cpu().numpy() for name in outputs if name in found})
    return tuple(answers[0]), answers


def answers_of(session: Session, batches: Iterable[Batch], inputs: Sequence[str]) -> list[Arrays]:
    """What an exported graph says to each batch, by name of the output."""
    return [session.run(to_arrays(batch, inputs)) for batch in batches]


def compare(
    found: Sequence[Arrays], wanted: Sequence[Arrays], batches: Sequence[Batch], head: Head | None = None
) -> Check:
    """Compares outputs with those of PyTorch; padded tokens do not count.

    Args:
        found: By name, one for every batch.
        wanted: Likewise.
        batches: What was run.
        head: Says what outputs mean; None for a model without one that is known.
    """
    masks = [batch.get("attention_mask", torch.ones(count_samples(batch), 1)).bool().cpu().numpy() for batch in batches]
    errors, largest = [], 0.0
    for name in wanted[0]:
        left, right = (
            np.concatenate(
                [
                    answer[name][mask] if _of_tokens(name, answer[name], mask, head) else answer[name]
                    for answer, mask in zip(answers, masks, strict=True)
                ]
            )
            for answers in (found, wanted)
        )
        difference = left - right
        size = np.sqrt(np.mean(right**2))  # a single text has no spread, and all alike have next to none
        spread = size if len(right) == 1 else max(np.sqrt(np.mean((right - right.mean(0)) ** 2)), 1e-3 * size)
        errors.append(float(np.sqrt(np.mean(difference**2)) / max(spread, np.finfo(np.float32).tiny)))
        largest = max(largest, float(np.abs(difference).max()))
    agreement = None if head is None else head.agreement(_tensors(found), _tensors(wanted), batches)
    return Check(sum(map(len, masks)), max(errors), largest, agreement)


def _of_tokens(name: str, array: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], head: Head | None) -> bool:
    """Whether an output has an entry for every token."""
    if head is not None and name in head.outputs:
        return head.outputs[name]
    same: bool = array.shape[:2] == mask.shape
    return same


def _tensors(answers: Sequence[Arrays]) -> list[dict[str, torch.Tensor]]:
    return [{name: torch.from_numpy(array) for name, array in answer.items()} for answer in answers]


def demand(check: Check, precision: Precision, limit: float) -> None:
    """Refuses an export that differs too much.

    Raises:
        ExportError: If it does.
    """
    if not check.relative_error <= limit:
        raise ExportError(
            f"The exported {precision} model differs from PyTorch by {check.relative_error:.3g} of its outputs' spread "
            f"(allowed: {limit:.2g}); nothing was written. Use another precision, other texts, or --tolerance."
        )
