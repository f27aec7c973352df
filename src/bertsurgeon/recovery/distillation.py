"""Distillation inside transformers' Trainer: the loss of a student that also listens to its dense teacher."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer

TEACHER_LOGITS = "teacher_logits"
"""Column with the teacher's logits."""


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

    The teacher's logits come with the data, in the column ``TEACHER_LOGITS``: a teacher in evaluation mode says the
    same in every epoch, so it is asked once.

    Args:
        hardness: Weight of the teacher, between 0 (task loss only) and 1 (teacher only).
        temperature: See :func:`distillation_loss`.
        **kwargs: As for :class:`transformers.Trainer`; ``label_names`` of the arguments must name ``TEACHER_LOGITS``.
    """

    def __init__(self, *, hardness: float, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
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
        teacher = inputs.pop(TEACHER_LOGITS)
        outputs = model(**inputs)
        loss = self.hardness * distillation_loss(outputs.logits, teacher.to(outputs.logits), self.temperature)
        if self.hardness < 1:
            loss = loss + (1 - self.hardness) * outputs.loss
        return (loss, outputs) if return_outputs else loss
