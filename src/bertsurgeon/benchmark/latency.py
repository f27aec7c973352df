"""How long forward passes take, measured so that models can be compared."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bertsurgeon.benchmark.flops import evaluating, random_inputs
from bertsurgeon.errors import OptionError
from bertsurgeon.progress import bar


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
        length: Tokens of each text.
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
    models: Mapping[str, nn.Module],
    batch_size: int,
    length: int,
    runs: int = 20,
    warmup: int = 3,
    seed: int = 0,
) -> dict[str, Latency]:
    """Times the forward passes of ``models`` in turns, so that a busy machine slows all of them alike.

    Args:
        models: Models by name; all get the same random token ids.
        batch_size: Texts in the batch.
        length: Tokens of each text; nothing is padded.
        runs: Timed forward passes of each model.
        warmup: Forward passes of each model before those, untimed.
        seed: Fixes the token ids.

    Raises:
        OptionError: If there is nothing to measure, or a model cannot take a batch of this shape.
    """
    if not models or runs < 1 or warmup < 0:
        raise OptionError("A latency needs at least one model, one run, and a warm-up of zero or more runs.")
    inputs = random_inputs(list(models.values()), batch_size, length, seed)
    placed = {name: _place(inputs, model) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack, torch.inference_mode():
        for model in models.values():
            stack.enter_context(evaluating(model))
        advance = stack.enter_context(bar("Measuring latency", (warmup + runs) * len(models)))
        for run in range(warmup + runs):
            for name, model in models.items():
                elapsed = _time(model, placed[name])
                if run >= warmup:
                    times[name].append(elapsed)
                advance()
    return {name: _summary(values, batch_size, length) for name, values in times.items()}


def _place(inputs: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in inputs.items()}


def _time(model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward pass, until an accelerator has finished it."""
    on_gpu = inputs["input_ids"].is_cuda
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
