"""The plan of a search with predictions, made within seconds: nothing is calibrated, exported or trained."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import PreTrainedModel

from bertsurgeon.benchmark import count_flops, fitting_length, measure_sizes, random_inputs
from bertsurgeon.compression.config import MINUTES, MINUTES_WEIGHTS, PRECISIONS, CompressConfig
from bertsurgeon.compression.search import SHARES
from bertsurgeon.methods.base import check_dense
from bertsurgeon.prediction import evaluating
from bertsurgeon.runtime import Precision

FIXED_SHARE = 0.06
"""Share of the dense model's time that pruning does not change: embeddings, head and calls."""

BYTES: dict[Precision, float] = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of an encoder weight; exports to ONNX Runtime and OpenVINO store embeddings in them as well."""

CALIBRATION = 60.0, 12.0
"""Time of a calibration: seconds of linear algebra for MiniLM, and forward passes over the texts in PyTorch."""

COMPENSATION = 10.0, 8.0
"""The same for pruning to one budget."""

LATENCY_MODEL_SECONDS = 60.0
"""Time of building and timing the encoders of the latency model, outside PyTorch."""

CALIBRATION_TOKENS = 24_576

EXPORT_SECONDS = {"pytorch": 3.0, "onnx": 25.0, "openvino": 25.0}
"""Time of an export, of INT8 calibration, of running the texts and of timing, for MiniLM on two cores."""


def plan_search(model: PreTrainedModel, config: CompressConfig) -> dict[str, Any]:
    """Predicts what a search will try, and how long it takes.

    The speeds are relative to the dense model in the same precision and follow from the share of the encoder's cost
    that remains; the minutes follow from one timed forward pass. What quality remains is for the search to measure.

    Args:
        model: The dense model.
        config: The options.

    Returns:
        ``runtime``, ``limit_minutes`` and ``candidates``, each with ``name``, ``encoder_weights``, ``parameters``,
        ``flops``, ``speedup`` (of dense in the same precision), ``memory_bytes`` and ``minutes``.

    Raises:
        ModelError: If the model cannot be pruned.
    """
    check_dense(model)
    runtime = config.target_runtime()
    length = fitting_length([model], config.length)
    sizes, flops = measure_sizes(model), count_flops(model, 1, length)
    others = sizes.parameters - sizes.encoder_weights
    per_token = _seconds_per_token(model)
    scale = max(1.0, sizes.encoder_weights / MINUTES_WEIGHTS)
    fixed = EXPORT_SECONDS[runtime] * scale
    precisions: list[Precision] = [p for p in PRECISIONS[runtime] if config.precision in ("auto", p)]
    pruned_precision: Precision = "int8" if "int8" in precisions else precisions[-1]
    one_pass = CALIBRATION_TOKENS * per_token
    calibration, compensation = (
        seconds * math.sqrt(scale) + passes * one_pass for seconds, passes in (CALIBRATION, COMPENSATION)
    )
    if config.objective == "speed" and runtime != "pytorch":
        calibration += LATENCY_MODEL_SECONDS * math.sqrt(scale)
    rows: list[dict[str, Any]] = []

    def add(name: str, precision: Precision, share: float, seconds: float) -> None:
        weights = round(share * sizes.encoder_weights)
        rows.append(
            {
                "name": name,
                "precision": precision,
                "encoder_weights": weights,
                "parameters": others + weights,
                "flops": round(share * flops),
                "speedup": 1 / (FIXED_SHARE + (1 - FIXED_SHARE) * share),
                "memory_bytes": round((others + weights) * BYTES[precision]),
                "minutes": seconds / 60,
            }
        )

    add("dense", "fp32", 1.0, fixed)
    if pruned_precision != "fp32":
        add(f"dense {pruned_precision}", pruned_precision, 1.0, fixed)
    for number, share in enumerate(SHARES):
        first = calibration if number == 0 else 0.0
        name = f"about {100 * (1 - share):.0f} % removed, {pruned_precision}"
        add(name, pruned_precision, share, first + compensation + fixed)
    minutes = config.minutes if config.minutes is not None else MINUTES * scale
    return {
        "runtime": runtime,
        "objective": config.objective,
        "limit_minutes": minutes,
        "max_candidates": config.max_candidates,
        "recover": config.recover,
        "candidates": rows[: config.max_candidates],
    }


def _seconds_per_token(model: PreTrainedModel) -> float:
    """Times one forward pass, after one that is not timed."""
    length = fitting_length([model], 128)
    inputs = {name: value.to(model.device) for name, value in random_inputs([model], 4, length).items()}
    with evaluating(model), torch.inference_mode():
        model(**inputs)
        start = time.perf_counter()
        model(**inputs)
    return (time.perf_counter() - start) / (4 * length)
