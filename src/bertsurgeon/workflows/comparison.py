"""Models side by side: quality, size, FLOPs and latency."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon.benchmark import compare_latency, count_flops, fitting_length, folder_size, measure_sizes

LENGTH = 128
"""Tokens per text for FLOPs and latency, if the models accept that many."""


def summarize(
    models: dict[str, PreTrainedModel], folders: dict[str, Path], metrics: dict[str, dict[str, float]], runs: int = 10
) -> dict[str, dict[str, Any]]:
    """Measures size, FLOPs and latency of models, beside their quality.

    Args:
        models: The models by name.
        folders: Folder of each model.
        metrics: The task's metrics of each model, in percent; may be empty.
        runs: Timed forward passes per model and batch size.

    Returns:
        For each model: its metrics, ``encoder_weights``, ``parameters``, ``file_bytes``, ``flops`` of one text, and the
        median latency in milliseconds of 1 and of 8 texts (``latency_ms_<texts>x<tokens>``).
    """
    length = fitting_length(models.values(), LENGTH)
    latencies = {size: compare_latency(models, batch_size=size, length=length, runs=runs) for size in (1, 8)}
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        sizes = measure_sizes(model)
        rows[name] = {
            **metrics.get(name, {}),
            "encoder_weights": sizes.encoder_weights,
            "parameters": sizes.parameters,
            "file_bytes": folder_size(folders[name]),
            "flops": count_flops(model, 1, length),
            **{f"latency_ms_{size}x{length}": latency[name].p50_ms for size, latency in latencies.items()},
        }
    return rows
