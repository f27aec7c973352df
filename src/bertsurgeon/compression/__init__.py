"""Compression: a search for the best deployed model within a bound, measured on the exported file."""

from bertsurgeon.compression.bounds import Bound, Quality, judge
from bertsurgeon.compression.compress import CompressResult, Provenance, compress
from bertsurgeon.compression.config import CompressConfig, CompressData

__all__ = [
    "Bound",
    "CompressConfig",
    "CompressData",
    "CompressResult",
    "Provenance",
    "Quality",
    "compress",
    "judge",
]
