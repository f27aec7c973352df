"""How long forward passes take, measured so that models can be compared."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertsurgeon.benchmark.flops import random_inputs
from bertsurgeon.calibration import count_samples
from bertsurgeon.errors import OptionError
from bertsurgeon.prediction import evaluating
from bertsurgeon.progress import bar

Runnable = Callable[..., Any]
"""A PyTorch model, or anything that is called like one."""

FEWEST = 3
"""Timed runs, however long they take."""


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of one model's forward passes.

    Attributes:
        p50_ms: Median time of a batch, in milliseconds.
        p95_ms: 95th percentile.
        min_ms: Shortest time.
        max_ms: Longest time.
        throughput: Texts per second at the median time.
        batch_size: Texts in the batch.
        length: Tokens of each text, of the longest batch; 1 for images.
        runs: Timed forward passes.
    """

    p50_ms: float
    p95_ms: float
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
    """Times the forward passes of ``models`` in turns, so that a busy machine slows all of them alike.

    Args:
        models: Models by name (with a ``config``); all get the same random token ids.
        batch_size: Texts in the batch.
        length: Tokens of each text; nothing is padded.
        runs: Timed forward passes of each model.
        warmup: Forward passes of each model before those, untimed.
        seed: Fixes the token ids.
        seconds: Ends earlier once all models together took this long, after three runs of each.

    Raises:
        OptionError: If there is nothing to measure, or a model cannot take a batch of this shape.
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
    """Like :func:`compare_latency`, on given batches, one after the other and again from the start.

    Raises:
        OptionError: If there is nothing to measure.
    """
    if not models or runs < 1 or warmup < 0:
        raise OptionError("A latency needs at least one model, one run, and a warm-up of zero or more runs.")
    placed = {name: [_place(batch, model) for batch in batches] for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack, torch.inference_mode():
        for model in models.values():
            if isinstance(model, nn.Module):
                stack.enter_context(evaluating(model))
        advance = stack.enter_context(bar("Measuring latency", (warmup + runs) * len(models)))
        for run in range(warmup + runs):
            spent = sum(map(sum, times.values()))
            if seconds is not None and run >= warmup + FEWEST and spent > seconds:
                break
            for name, model in models.items():
                elapsed = _time(model, placed[name][run % len(batches)])
                if run >= warmup:
                    times[name].append(elapsed)
                advance()
    rows = count_samples(dict(batches[0]))
    longest = max(batch["input_ids"].shape[1] if "input_ids" in batch else 1 for batch in batches)
    return {name: _summary(values, rows, longest) for name, values in times.items()}


def _place(inputs: Mapping[str, Tensor], model: Runnable) -> dict[str, Tensor]:
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    return {key: value.to(device) for key, value in inputs.items()}


def _time(model: Runnable, inputs: dict[str, Tensor]) -> float:
    """Seconds of one forward pass, until an accelerator has finished it."""
    on_gpu = next(iter(inputs.values())).is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(**inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _summary(seconds: list[float], batch_size: int, length: int) -> Latency:
    milliseconds = 1000.0 * np.asarray(seconds)
    p50, p95 = (float(value) for value in np.percentile(milliseconds, (50, 95)))
    return Latency(
        p50_ms=p50,
        p95_ms=p95,
        min_ms=float(milliseconds.min()),
        max_ms=float(milliseconds.max()),
        throughput=1000.0 * batch_size / p50,
        batch_size=batch_size,
        length=length,
        runs=len(seconds),
    )
