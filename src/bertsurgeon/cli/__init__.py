"""The command line: ``bertsurgeon compress | finetune | prune | recover | evaluate | bench | export | …``."""

from bertsurgeon.cli import (
    bench,
    compress,
    demo,
    export,
    gradual,
    layers,
    measure,
    prune,
    report,
    train,
    verify,
    vocabulary,
)
from bertsurgeon.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "compress",
    "demo",
    "export",
    "gradual",
    "layers",
    "main",
    "measure",
    "prune",
    "report",
    "train",
    "verify",
    "vocabulary",
]
