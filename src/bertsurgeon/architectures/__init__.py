"""Architectures: one table of supported models, and one view of a model's encoder."""

from bertsurgeon.architectures.encoder import Encoder
from bertsurgeon.architectures.fused import SplitLinear, fuse_in_place, unfuse, unfuse_in_place
from bertsurgeon.architectures.table import ARCHITECTURES, Architecture, get_architecture

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Encoder",
    "SplitLinear",
    "fuse_in_place",
    "get_architecture",
    "unfuse",
    "unfuse_in_place",
]
