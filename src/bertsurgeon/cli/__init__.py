"""The command line: ``bertsurgeon finetune | prune | recover | evaluate | bench | inspect | demo``."""

from bertsurgeon.cli import demo, measure, prune, train
from bertsurgeon.cli.app import app, main

__all__ = ["app", "demo", "main", "measure", "prune", "train"]
