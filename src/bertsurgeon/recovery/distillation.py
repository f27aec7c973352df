"""Distillation inside transformers' Trainer: the loss of a student that also listens to its dense teacher."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the student's logits are from the teacher's.

    For classes ``T² · KL(teacher ‖ student)`` at temperature T (Hinton et al., 2015, arXiv 1503.02531), for a single
    output (a regression) the mean squared difference.

    Args:
        student: Logits, shape (batch, labels).
        teacher: Logits, shape (batch, labels).
        temperature: Softens both distributions; ignored for a regression.
    """
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


class DistillationTrainer(Trainer):
    """A Trainer whose loss is ``(1 - hardness) · task loss + hardness · distillation loss``.

    Args:
        teacher: The dense model; kept in evaluation mode, never updated.
        hardness: Weight of the teacher, between 0 (task loss only) and 1 (teacher only).
        temperature: See :func:`distillation_loss`.
        **kwargs: As for :class:`transformers.Trainer`.
    """

    def __init__(self, *, teacher: nn.Module, hardness: float, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        self.hardness = hardness
        self.temperature = temperature
        # the loss below is a mean over the batch; the Trainer must divide it when it accumulates gradients
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of both losses (see the class)."""
        outputs = model(**inputs)
        with torch.no_grad():
            teacher = self.teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        loss = self.hardness * distillation_loss(outputs.logits, teacher, self.temperature)
        if self.hardness < 1:
            loss = loss + (1 - self.hardness) * outputs.loss
        return (loss, outputs) if return_outputs else loss
