"""Models side by side: latency, throughput, memory and size in one table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon.benchmark.contenders import BenchmarkEntry, in_pytorch, open_contender
from bertsurgeon.benchmark.environment import environment
from bertsurgeon.benchmark.flops import random_inputs
from bertsurgeon.benchmark.latency import Latency, time_batches
from bertsurgeon.benchmark.memory import measure_memory
from bertsurgeon.calibration import Batch
from bertsurgeon.errors import OptionError

Draw = Callable[[int, Sequence[Any]], Sequence[Batch]]
"""Batches of a size, for some models."""


def bench(
    models: Mapping[str, PreTrainedModel | str | Path] | Sequence[str | Path],
    batch_sizes: Sequence[int] = (1, 8, 32),
    length: int = 128,
    *,
    runs: int = 20,
    seconds: float | None = 10.0,
    threads: int | None = None,
    memory: bool = False,
    draw: Draw | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Times models in turns, in PyTorch or exported; ratios are to the first one.

    Args:
        models: Models, or their folders, by name; or folders, exported ones as well, whose paths are their names
            (``FOLDER@bf16`` and ``FOLDER@compile`` run in bfloat16, or compiled).
        batch_sizes: Texts per forward pass: latency at the first, throughput at the best.
        length: Tokens of the random texts that are timed, where ``draw`` is None.
        runs: Timed forward passes per model and batch size.
        seconds: Fewer runs (at least three) where a batch size takes longer than this.
        threads: Of runtimes other than PyTorch; None for all cores.
        memory: Measure peak memory as well, each model in a process of its own; for folders only.
        draw: Makes the batches to time, from their size and the models.
        seed: Fixes the random texts.

    Returns:
        Plain data: ``environment``, ``batch_sizes``, ``length`` in tokens, and ``models`` with, for each, ``speedup``,
        ``p50_ms``, ``throughput_ratio``, ``texts_per_second``, ``encoder_weights``, ``flops``, ``file_bytes`` and more.

    Raises:
        OptionError: If there is nothing to measure, or a model cannot take a batch of this shape.
        BertSurgeonError: If a folder holds no model.

    Example:
        >>> from bertsurgeon import AutoConfig, Sparsity, bench, prune
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> pruned, _ = prune(model, AutoConfig(Sparsity(0.5)), tokenize(texts, tokenizer), tokenizer)
        >>> found = bench({"dense": model, "pruned": pruned}, batch_sizes=[1], length=16, runs=3)
        >>> [round(row["encoder_weights"] / 16384, 1) for row in found["models"].values()]
        [1.0, 0.5]
    """
    if not models or not batch_sizes or min(batch_sizes) < 1:
        raise OptionError("A benchmark needs at least one model, and batches of at least one text.")
    named: dict[str, Any] = dict(models) if isinstance(models, Mapping) else {str(name): name for name in models}
    contenders = {
        name: in_pytorch(model) if isinstance(model, PreTrainedModel) else open_contender(str(model), threads)
        for name, model in named.items()
    }
    running = {name: contender.model for name, contender in contenders.items()}
    asked = list(running.values())
    batches = {
        size: [random_inputs(asked, size, length, seed)] if draw is None else draw(size, asked) for size in batch_sizes
    }
    latencies = {size: time_batches(running, batches[size], runs, seconds=seconds) for size in batch_sizes}
    first = next(iter(contenders))
    peaks = {
        name: measure_memory(str(model), batch_sizes[0], length)
        if memory and not isinstance(model, PreTrainedModel)
        else None
        for name, model in named.items()
    }
    return {
        "environment": environment(),
        "batch_sizes": list(batch_sizes),
        "length": latencies[batch_sizes[0]][first].length,
        "models": {name: _row(name, first, contenders[name], latencies, peaks[name]) for name in contenders},
    }


def _row(
    name: str, first: str, contender: BenchmarkEntry, latencies: dict[int, dict[str, Latency]], memory: int | None
) -> dict[str, Any]:
    smallest = next(iter(latencies.values()))

    def throughput(of: str) -> float:
        return max(found[of].throughput for found in latencies.values())

    return {
        "runtime": contender.runtime,
        "precision": contender.precision,
        "speedup": smallest[first].p50_ms / smallest[name].p50_ms,
        "throughput_ratio": throughput(name) / throughput(first),
        "p50_ms": smallest[name].p50_ms,
        "p95_ms": smallest[name].p95_ms,
        "texts_per_second": throughput(name),
        "best_batch_size": max(latencies, key=lambda size: latencies[size][name].throughput),
        "batches": {size: vars(found[name]) for size, found in latencies.items()},
        "encoder_weights": contender.encoder_weights,
        "flops": contender.flops,
        "memory_bytes": memory,
        "file_bytes": contender.file_bytes,
    }
