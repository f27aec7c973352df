"""Recovery: fine-tuning of a pruned model, with the dense model as an optional teacher."""

from bertsurgeon.recovery.callbacks import MaskCallback
from bertsurgeon.recovery.config import TrainingConfig, total_steps
from bertsurgeon.recovery.distillation import (
    DistillationTrainer,
    distillation_loss,
    distilled_loss,
    hidden_state_loss,
    outputs_loss,
    pruning_loss,
)
from bertsurgeon.recovery.fake_quantization import QuantizationAwareTraining, check_quantizable
from bertsurgeon.recovery.training import recover, train

__all__ = [
    "DistillationTrainer",
    "MaskCallback",
    "QuantizationAwareTraining",
    "TrainingConfig",
    "check_quantizable",
    "distillation_loss",
    "distilled_loss",
    "hidden_state_loss",
    "outputs_loss",
    "pruning_loss",
    "recover",
    "total_steps",
    "train",
]
