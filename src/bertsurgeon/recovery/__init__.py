"""Recovery: fine-tuning of a pruned model, with the dense model as an optional teacher, or while it is pruned."""

from bertsurgeon.recovery.distillation import (
    DistillationTrainer,
    distillation_loss,
    distilled_loss,
    hidden_state_loss,
    outputs_loss,
    pruning_loss,
)
from bertsurgeon.recovery.gradual import GradualPruning, pruning_targets, rate_schedule, train_gradually
from bertsurgeon.recovery.masking import MaskCallback
from bertsurgeon.recovery.options import TrainingOptions
from bertsurgeon.recovery.quantizing import QuantizationAwareTraining
from bertsurgeon.recovery.recipes import (
    Distillation,
    LearningRate,
    MaskedLanguageModeling,
    Pruning,
    Quantization,
    Recipe,
    load_recipe,
    packaged_recipes,
)
from bertsurgeon.recovery.recover import recover
from bertsurgeon.recovery.training import train

__all__ = [
    "Distillation",
    "DistillationTrainer",
    "GradualPruning",
    "LearningRate",
    "MaskCallback",
    "MaskedLanguageModeling",
    "Pruning",
    "Quantization",
    "QuantizationAwareTraining",
    "Recipe",
    "TrainingOptions",
    "distillation_loss",
    "distilled_loss",
    "hidden_state_loss",
    "load_recipe",
    "outputs_loss",
    "packaged_recipes",
    "pruning_loss",
    "pruning_targets",
    "rate_schedule",
    "recover",
    "train",
    "train_gradually",
]
