"""Workflows: what a command does from its inputs to its output folder, callable from Python as well."""

from bertsurgeon.workflows.inputs import DataConfig, load_data, load_network, open_model, resolve_model
from bertsurgeon.workflows.pipeline import Inputs, load_inputs, prune_to_budgets
from bertsurgeon.workflows.train_and_save import finetune_and_save, prune_gradually_and_save, recover_and_save

__all__ = [
    "DataConfig",
    "Inputs",
    "finetune_and_save",
    "load_data",
    "load_inputs",
    "load_network",
    "open_model",
    "prune_gradually_and_save",
    "prune_to_budgets",
    "recover_and_save",
    "resolve_model",
]
