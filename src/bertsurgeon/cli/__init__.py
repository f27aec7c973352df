"""The command line: ``bertsurgeon finetune | prune | recover | evaluate | bench | inspect | export | demo``."""

from bertsurgeon.cli import bench, demo, export, measure, prune, train
from bertsurgeon.cli.app import app, main

__all__ = ["app", "bench", "demo", "export", "main", "measure", "prune", "train"]
