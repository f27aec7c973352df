"""Gradual pruning: oBERT's pruning steps, and quantization-aware training, at the epochs that a recipe names."""

from bertsurgeon.gradual.gradual_pruning import GradualPruning, pruning_targets, rate_schedule, train_gradually
from bertsurgeon.gradual.recipe_files import load_recipe, packaged_recipes
from bertsurgeon.gradual.recipes import (
    Distillation,
    LearningRate,
    MaskedLanguageModeling,
    Pruning,
    Quantization,
    Recipe,
)

__all__ = [
    "Distillation",
    "GradualPruning",
    "LearningRate",
    "MaskedLanguageModeling",
    "Pruning",
    "Quantization",
    "Recipe",
    "load_recipe",
    "packaged_recipes",
    "pruning_targets",
    "rate_schedule",
    "train_gradually",
]
