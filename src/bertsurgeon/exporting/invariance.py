"""How the answers of an exported graph depend on what should not matter: batch, padding, threads, processor."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bertsurgeon import progress
from bertsurgeon.calibration import PIXELS, Batch, count_samples
from bertsurgeon.errors import ExportError
from bertsurgeon.exporting.verify import Arrays, compare, is_per_token, run_session, to_arrays
from bertsurgeon.runtime import OpenVinoSession, Precision, Runtime, Session, is_x86, open_session, run_without_vnni
from bertsurgeon.tasks import Head

ADDED_PADDING = 16
"""Padded tokens that are appended to a batch."""

SECONDS_WITHOUT_VNNI = 300.0
"""Time limit of the process that runs without VNNI."""


def measure_invariance(
    session: Session,
    file: Path,
    runtime: Runtime,
    precision: Precision,
    batches: Sequence[Batch],
    inputs: Sequence[str],
    head: Head | None,
    *,
    pad_token_id: int = 0,
    max_length: int | None = None,
) -> dict[str, dict[str, Any] | None]:
    """Runs the same texts in other ways, and compares the outputs.

    Args:
        session: The graph, opened.
        file: Its file.
        runtime: Its runtime.
        precision: Precision of its products.
        batches: Padded batches.
        inputs: Names of the graph's inputs.
        head: The model's head; None if it is unknown.
        pad_token_id: Token of padding.
        max_length: Most tokens that the model takes; None for any number.

    Returns:
        :class:`bertsurgeon.exporting.verify.Check` as plain data, by what was changed: ``alone`` (each text by itself,
        without padding), ``padded`` (16 more tokens of padding), ``order`` (the texts of each batch reversed),
        ``threads`` (two threads compared with one), ``without_vnni`` (about what :func:`bertsurgeon.open_exported`
        computes on a processor with AVX2 alone) and ``saturated`` (what OpenVINO computes there in INT8 with its own
        settings). None for what cannot be measured: padding of images or of batches of the full length; two threads on
        one core; the instructions of ONNX Runtime, which has no switch for them, or of other processors.
    """
    reference = run_session(session, batches, inputs)

    def compared(outputs: Sequence[Arrays], expected: Sequence[Arrays] = reference) -> dict[str, Any]:
        return compare(outputs, expected, batches, head).to_dict()

    alone = [_run_alone(session, batch, one, inputs, head) for batch, one in zip(batches, reference, strict=True)]
    reverse = [
        {name: value[::-1].copy() for name, value in outputs.items()}
        for outputs in run_session(session, [_reversed(batch) for batch in batches], inputs)
    ]
    return {
        "alone": compared(alone),
        "padded": _compare_padded(session, batches, reference, inputs, head, pad_token_id, max_length),
        "order": compared(reverse),
        "threads": _compare_threads(file, runtime, precision, batches, inputs, tuple(reference[0]), head),
        **_compare_without_vnni(file, runtime, precision, batches, reference, inputs, head),
    }


def worst(invariance: dict[str, dict[str, Any] | None], names: Sequence[str]) -> dict[str, Any] | None:
    """Returns the measurement with the largest relative error among some; None if none was made.

    Args:
        invariance: Result of :func:`measure_invariance`.
        names: Keys of it.
    """
    measured = [one for name in names if (one := invariance.get(name)) is not None]
    return max(measured, key=lambda one: float(one["relative_error"]), default=None)


def _mask(batch: Batch) -> Any:
    return batch["attention_mask"].bool().cpu().numpy()


def _run_alone(session: Session, batch: Batch, together: Arrays, inputs: Sequence[str], head: Head | None) -> Arrays:
    """Runs every row of a batch by itself, without padding, and returns the outputs in the form of the batch's."""
    outputs = {name: array.copy() for name, array in together.items()}
    mask = None if PIXELS in batch else _mask(batch)
    for row in range(count_samples(batch)):
        if mask is not None and not mask[row].any():
            continue  # a row of padding has no text to run
        single = {name: value[row : row + 1] for name, value in batch.items() if name in inputs}
        if mask is not None:
            single = {name: value[:, torch.from_numpy(mask[row])] for name, value in single.items()}
        for name, array in session.run(to_arrays(single, inputs)).items():
            if mask is not None and is_per_token(name, together[name], mask, head):
                outputs[name][row, mask[row]] = array[0]
            else:
                outputs[name][row] = array[0]
    return outputs


def _reversed(batch: Batch) -> Batch:
    return {name: value.flip(0) for name, value in batch.items()}


def _compare_padded(
    session: Session,
    batches: Sequence[Batch],
    reference: Sequence[Arrays],
    inputs: Sequence[str],
    head: Head | None,
    pad_token_id: int,
    max_length: int | None,
) -> dict[str, Any] | None:
    kept, expected, outputs = [], [], []
    for batch, one in zip(batches, reference, strict=True):
        if PIXELS in batch:
            continue
        mask = _mask(batch)
        length = mask.shape[1]
        added = ADDED_PADDING if max_length is None else min(ADDED_PADDING, max_length - length)
        if added < 1:
            continue
        padding = {"input_ids": pad_token_id}
        longer = {
            name: torch.nn.functional.pad(value, (0, added), value=padding.get(name, 0))
            for name, value in batch.items()
            if name in inputs
        }
        results = session.run(to_arrays(longer, inputs))
        kept.append(batch)
        expected.append(one)
        outputs.append(
            {
                name: array[:, :length] if is_per_token(name, one[name], mask, head) else array
                for name, array in results.items()
            }
        )
    return compare(outputs, expected, kept, head).to_dict() if kept else None


def _compare_threads(
    file: Path,
    runtime: Runtime,
    precision: Precision,
    batches: Sequence[Batch],
    inputs: Sequence[str],
    outputs: Sequence[str],
    head: Head | None,
) -> dict[str, Any] | None:
    if runtime == "openvino" and _cores() < 2:  # it would take one thread
        return None
    one, two = (
        run_session(open_session(runtime, file, precision, count, outputs), batches, inputs) for count in (1, 2)
    )
    return compare(two, one, batches, head).to_dict()


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compare_without_vnni(
    file: Path,
    runtime: Runtime,
    precision: Precision,
    batches: Sequence[Batch],
    reference: Sequence[Arrays],
    inputs: Sequence[str],
    head: Head | None,
) -> dict[str, dict[str, Any] | None]:
    if runtime != "openvino" or not is_x86():
        return {"without_vnni": None, "saturated": None}
    limited = None
    try:
        outputs = run_without_vnni(file, [to_arrays(batch, inputs) for batch in batches], SECONDS_WITHOUT_VNNI)
        limited = compare(
            [{name: one[name] for name in reference[0]} for one in outputs], reference, batches, head
        ).to_dict()
    except ExportError as error:
        progress.warn(f"The answers of a processor without VNNI were not measured: {error}")
    if precision != "int8":
        return {"without_vnni": limited, "saturated": None}
    opened = run_session(OpenVinoSession(file, precision, has_vnni=False, outputs=tuple(reference[0])), batches, inputs)
    return {"without_vnni": compare(opened, reference, batches, head).to_dict(), "saturated": limited}
