"""Measuring models: size, memory, floating-point operations and latency, and the environment of a measurement."""

from bertsurgeon.benchmark.bench import BenchmarkConfig, BenchmarkReport, BenchmarkRow, bench
from bertsurgeon.benchmark.entries import BenchmarkEntry, open_entry, split_modes
from bertsurgeon.benchmark.footprint import (
    Sizes,
    count_flops,
    environment,
    fitting_length,
    folder_size,
    measure_sizes,
    random_inputs,
)
from bertsurgeon.benchmark.latency import Latency, Runnable, compare_latency, time_batches
from bertsurgeon.benchmark.memory import measure_memory

__all__ = [
    "BenchmarkConfig",
    "BenchmarkEntry",
    "BenchmarkReport",
    "BenchmarkRow",
    "Latency",
    "Runnable",
    "Sizes",
    "bench",
    "compare_latency",
    "count_flops",
    "environment",
    "fitting_length",
    "folder_size",
    "measure_memory",
    "measure_sizes",
    "open_entry",
    "random_inputs",
    "split_modes",
    "time_batches",
]
