"""Recovery: fine-tuning of a pruned model, with the dense model as an optional teacher."""

from bertsurgeon.recovery.callbacks import MaskCallback
from bertsurgeon.recovery.config import LABEL_LEARNING_RATE, TrainingConfig, total_steps
from bertsurgeon.recovery.distillation import (
    DistillationTrainer,
    distillation_loss,
    distilled_loss,
    hidden_state_loss,
    outputs_loss,
    pruning_loss,
)
from bertsurgeon.recovery.fake_quantization import QuantizationAwareTraining, check_quantizable
from bertsurgeon.recovery.refit import EmbeddingRefit, RefitReport, refit_embeddings
from bertsurgeon.recovery.selection import SelectionReport
from bertsurgeon.recovery.training import TrainingReport, recover, recover_with_report, train

__all__ = [
    "LABEL_LEARNING_RATE",
    "DistillationTrainer",
    "EmbeddingRefit",
    "MaskCallback",
    "QuantizationAwareTraining",
    "RefitReport",
    "SelectionReport",
    "TrainingConfig",
    "TrainingReport",
    "check_quantizable",
    "distillation_loss",
    "distilled_loss",
    "hidden_state_loss",
    "outputs_loss",
    "pruning_loss",
    "recover",
    "recover_with_report",
    "refit_embeddings",
    "total_steps",
    "train",
]
