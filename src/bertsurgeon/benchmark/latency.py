"""Latency of forward passes, measured so that models can be compared."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertsurgeon.benchmark.footprint import random_inputs
from bertsurgeon.calibration import count_samples
from bertsurgeon.errors import OptionError
from bertsurgeon.prediction import evaluating
from bertsurgeon.progress import bar

Runnable = Callable[..., Any]
"""A PyTorch model, or any callable with the same interface."""

MIN_RUNS = 3
"""Timed runs of each model, whatever the time limit."""


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of the forward passes of one model.

    Attributes:
        p50_ms: Median time of a batch, in milliseconds.
        p95_ms: 95th percentile, in milliseconds.
        p99_ms: 99th percentile, in milliseconds.
        min_ms: Minimum, in milliseconds.
        max_ms: Maximum, in milliseconds.
        throughput: Texts per second at the median time.
        batch_size: Texts in the batch.
        length: Tokens of each text in the longest batch; 1 for images.
        runs: Number of timed forward passes.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    throughput: float
    batch_size: int
    length: int
    runs: int


def compare_latency(
    models: Mapping[str, Any],
    batch_size: int,
    length: int,
    runs: int = 20,
    warmup: int = 3,
    seed: int = 0,
    seconds: float | None = None,
) -> dict[str, Latency]:
    """Times the forward passes of several models in turns, so that other load on the machine affects all of them.

    Args:
        models: Models by name, each with a ``config``; all run on the same random token ids.
        batch_size: Texts in the batch.
        length: Tokens of each text; there is no padding.
        runs: Timed forward passes of each model.
        warmup: Untimed forward passes of each model before those.
        seed: Seed of the token ids.
        seconds: Time limit for all models together, after at least three runs of each; None for no limit.

    Returns:
        Latencies by name.

    Raises:
        OptionError: If there are no models or runs, or a model does not accept a batch of this shape.
    """
    inputs = random_inputs(list(models.values()), batch_size, length, seed) if models else {}
    return time_batches(models, [inputs], runs, warmup, seconds)


def time_batches(
    models: Mapping[str, Runnable],
    batches: Sequence[Mapping[str, Tensor]],
    runs: int = 20,
    warmup: int = 3,
    seconds: float | None = None,
) -> dict[str, Latency]:
    """Times the forward passes of several models in turns, like :func:`compare_latency`, on the batches passed.

    Args:
        models: Models by name.
        batches: Model inputs; run r uses batch r modulo their number.
        runs: Timed forward passes of each model.
        warmup: Untimed forward passes of each model before those.
        seconds: Time limit for all models together, after at least three runs of each; None for no limit.

    Returns:
        Latencies by name.

    Raises:
        OptionError: If there are no models or runs.
    """
    if not models or runs < 1 or warmup < 0:
        raise OptionError("Measuring latency needs at least one model, runs >= 1 and warmup >= 0.")
    inputs = {name: [_to_device(batch, model) for batch in batches] for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack, torch.inference_mode():
        for model in models.values():
            if isinstance(model, nn.Module):
                stack.enter_context(evaluating(model))
        advance = stack.enter_context(bar("Measuring latency", (warmup + runs) * len(models)))
        for run in range(warmup + runs):
            total = sum(map(sum, times.values()))
            if seconds is not None and run >= warmup + MIN_RUNS and total > seconds:
                break
            for name, model in models.items():
                elapsed = _time(model, inputs[name][run % len(batches)])
                if run >= warmup:
                    times[name].append(elapsed)
                advance()
    batch_size = count_samples(dict(batches[0]))
    length = max(batch["input_ids"].shape[1] if "input_ids" in batch else 1 for batch in batches)
    return {name: _summarize(values, batch_size, length) for name, values in times.items()}


def _to_device(inputs: Mapping[str, Tensor], model: Runnable) -> dict[str, Tensor]:
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    return {key: value.to(device) for key, value in inputs.items()}


def _time(model: Runnable, inputs: dict[str, Tensor]) -> float:
    """Returns the seconds of one forward pass, including the time until the GPU has finished it."""
    on_gpu = next(iter(inputs.values())).is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(**inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _summarize(seconds: list[float], batch_size: int, length: int) -> Latency:
    milliseconds = 1000.0 * np.asarray(seconds)
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
    return Latency(
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        min_ms=float(milliseconds.min()),
        max_ms=float(milliseconds.max()),
        throughput=1000.0 * batch_size / p50,
        batch_size=batch_size,
        length=length,
        runs=len(seconds),
    )
