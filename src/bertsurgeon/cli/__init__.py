"""The command line: ``bertsurgeon finetune | prune | drop-layers | gradual | recover | bench | export | …``."""

from bertsurgeon.cli import bench, demo, export, gradual, layers, measure, prune, report, train, vocabulary
from bertsurgeon.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "demo",
    "export",
    "gradual",
    "layers",
    "main",
    "measure",
    "prune",
    "report",
    "train",
    "vocabulary",
]
