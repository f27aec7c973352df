"""Measuring models: size on disk, memory, floating-point operations, latency, and what they were measured on."""

from bertsurgeon.benchmark.bench import bench
from bertsurgeon.benchmark.contenders import BenchmarkEntry, open_contender
from bertsurgeon.benchmark.environment import environment
from bertsurgeon.benchmark.flops import count_flops, fitting_length, random_inputs
from bertsurgeon.benchmark.latency import Latency, Runnable, compare_latency, time_batches
from bertsurgeon.benchmark.memory import measure_memory
from bertsurgeon.benchmark.size import Sizes, folder_size, measure_sizes

__all__ = [
    "BenchmarkEntry",
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
    "open_contender",
    "random_inputs",
    "time_batches",
]
