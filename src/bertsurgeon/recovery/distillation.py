"""Distillation inside transformers' Trainer: the loss of a student that also listens to its dense teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, Trainer

TEACHER_LOGITS = "teacher_logits"
"""Column with the teacher's logits."""


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the student's logits are from the teacher's.

    For classes ``T² · KL(teacher ‖ student)`` at temperature T (Hinton et al., 2015, arXiv 1503.02531), for a single
    output (a regression) the mean squared difference. Every row counts the same.

    Args:
        student: Logits, shape (batch, labels).
        teacher: Logits, shape (batch, labels).
        temperature: Softens both distributions; ignored for a regression.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def hidden_state_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, compared: Sequence[int]
) -> Tensor:
    """How far the student's hidden states are from the teacher's, as a share of the teacher's variance.

    Args:
        student: The embeddings' and every layer's outputs, each of shape (batch, tokens, hidden).
        teacher: Likewise.
        mask: 1 for real tokens, shape (batch, tokens).
        compared: Which of them count; the mean over them is returned.
    """
    real = mask.bool()
    losses = []
    for index in compared:
        wanted = teacher[index][real].detach().float()
        losses.append(F.mse_loss(student[index][real].float(), wanted) / wanted.var(0).mean())
    return torch.stack(losses).mean()


def distilled_loss(
    teacher: PreTrainedModel, temperature: float = 2.0, hardness: float = 1.0
) -> Callable[[PreTrainedModel, Mapping[str, Tensor], torch.Generator], Tensor]:
    """The sum over a batch of what training with a teacher minimises, for gradients of it.

    Args:
        teacher: Runs in evaluation mode, without gradients.
        temperature: See :func:`distillation_loss`.
        hardness: Weight of the teacher, between 0 and 1; labels are needed below 1.
    """

    def loss(model: PreTrainedModel, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            wanted = teacher.eval()(**inputs).logits
        outputs = model(**(batch if hardness < 1 else inputs))
        loss = hardness * distillation_loss(*real_rows(outputs.logits, wanted, batch), temperature)
        if hardness < 1:
            loss = loss + (1 - hardness) * outputs.loss
        return loss * len(wanted)

    return loss


def real_rows(student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The logits that are compared: those of real tokens, shape (tokens, vocabulary), where every token has its own.

    Args:
        student: Logits, shape (batch, labels) or (batch, tokens, vocabulary).
        teacher: Likewise.
        batch: With ``attention_mask``.
    """
    if student.dim() < 3:
        return student, teacher
    real = batch["attention_mask"].bool()
    return student[real], teacher[real]


class DistillationTrainer(Trainer):
    """A Trainer whose loss is ``(1 - hardness) · task loss + hardness · distillation loss + weight · hidden loss``.

    The teacher's logits come with the data, in the column ``TEACHER_LOGITS``: a teacher in evaluation mode says the
    same in every epoch, so it is asked once. Its hidden states are too large to keep, and what is masked anew in every
    epoch gets new answers; there the teacher runs beside the student.

    Args:
        hardness: Weight of the teacher, between 0 (task loss only) and 1 (teacher only).
        temperature: See :func:`distillation_loss`.
        hidden_weight: Weight of :func:`hidden_state_loss`.
        teacher: The dense model; asked if ``hidden_weight`` is not zero, or the data lacks its logits.
        compared: Which hidden states are compared.
        **kwargs: As for :class:`transformers.Trainer`; ``label_names`` of the arguments must name ``TEACHER_LOGITS``.
    """

    def __init__(
        self,
        *,
        hardness: float,
        temperature: float,
        hidden_weight: float = 0.0,
        teacher: PreTrainedModel | None = None,
        compared: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hardness = hardness
        self.temperature = temperature
        self.hidden_weight = hidden_weight
        self.teacher = teacher
        self.compared = compared
        # the loss below is a mean over the batch; the Trainer must divide it when it accumulates gradients
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of the losses (see the class)."""
        inputs = dict(inputs)
        teacher_logits = inputs.pop(TEACHER_LOGITS, None)
        with_hidden = self.hidden_weight > 0
        outputs = model(**inputs, output_hidden_states=with_hidden)
        logits = outputs.logits
        if teacher_logits is None or with_hidden:
            assert self.teacher is not None
            with torch.no_grad():
                seen = {name: value for name, value in inputs.items() if name != "labels"}
                wanted = self.teacher(**seen, output_hidden_states=with_hidden)
        if teacher_logits is None:
            teacher_logits = wanted.logits
        rows = real_rows(logits, teacher_logits.to(logits.device), inputs)
        loss = self.hardness * distillation_loss(*rows, self.temperature)
        if self.hardness < 1:
            loss = loss + (1 - self.hardness) * outputs.loss
        if with_hidden:
            mask, states = inputs["attention_mask"], wanted.hidden_states
            loss = loss + self.hidden_weight * hidden_state_loss(outputs.hidden_states, states, mask, self.compared)
        return (loss, {"logits": logits}) if return_outputs else loss
