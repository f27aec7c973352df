"""The command line: ``bertsurgeon finetune | prune | gradual | recover | evaluate | bench | export | …``."""

from bertsurgeon.cli import bench, demo, export, gradual, measure, prune, train
from bertsurgeon.cli.app import app, main

__all__ = ["app", "bench", "demo", "export", "gradual", "main", "measure", "prune", "train"]
