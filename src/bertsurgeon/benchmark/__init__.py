"""Measuring models: size on disk, floating-point operations, latency, and what they were measured on."""

from bertsurgeon.benchmark.environment import environment
from bertsurgeon.benchmark.flops import count_flops, evaluating
from bertsurgeon.benchmark.latency import Latency, compare_latency
from bertsurgeon.benchmark.size import folder_size

__all__ = ["Latency", "compare_latency", "count_flops", "environment", "evaluating", "folder_size"]
