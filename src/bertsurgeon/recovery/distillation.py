"""Distillation inside transformers' Trainer: the loss of a student that also uses_teacher to its dense teacher."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, Trainer

from bertsurgeon.architectures import unfuse
from bertsurgeon.calibration import summed_loss
from bertsurgeon.tasks import Distribution, Head, Outputs, default_distribution, head_of, model_inputs

TEACHER = "teacher_"
"""What the names of columns with the teacher's outputs begin with."""


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, distribution: Distribution | None = None
) -> Tensor:
    """How far the student's logits are from the teacher's.

    For a class ``T² · KL(teacher ‖ student)`` at temperature T (Hinton et al., 2015, arXiv 1503.02531), for classes
    that are predicted each on its own the mean of the same for each, for a regression the mean squared difference.
    Every prediction counts the same.

    Args:
        student: Logits, shape (predictions, choices).
        teacher: Likewise.
        temperature: Softens both distributions; ignored for a regression.
        distribution: What the logits are the parameters of; None for a class, or a number where there is a single one.
    """
    family = distribution or default_distribution(student)
    return family.divergence(student.float(), teacher.float(), temperature)


def outputs_loss(
    head: Head, student: Outputs, teacher: Outputs, batch: Mapping[str, Tensor], temperature: float
) -> Tensor:
    """:func:`distillation_loss` of all that two models predict about a batch, mean over the kinds of predictions.

    Args:
        head: Of both.
        student: Its outputs by name.
        teacher: Likewise.
        batch: What both were called with; padding and words' further pieces do not count.
        temperature: See :func:`distillation_loss`.
    """
    pairs = zip(head.predictions(student, batch), head.predictions(teacher, batch), strict=True)
    losses = [distillation_loss(said.z, wanted.z, temperature, said.distribution) for said, wanted in pairs]
    return torch.stack(losses).mean()


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
    teacher: PreTrainedModel, temperature: float = 2.0, distillation_weight: float = 1.0
) -> Callable[[PreTrainedModel, Mapping[str, Tensor], torch.Generator], Tensor]:
    """The sum over a batch of what training with a teacher minimises, for gradients of it.

    Args:
        teacher: Runs in evaluation mode, without gradients.
        temperature: See :func:`distillation_loss`.
        distillation_weight: Weight of the teacher, between 0 and 1; labels are needed below 1.
    """

    def loss(model: PreTrainedModel, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            wanted = teacher.eval()(**model_inputs(batch))
        outputs = model(**model_inputs(batch, labels=distillation_weight < 1))
        head = head_of(model)
        loss = distillation_weight * outputs_loss(head, outputs, wanted, batch, temperature)
        if distillation_weight < 1:
            loss = loss + (1 - distillation_weight) * outputs.loss
        return loss * head.num_losses(batch)

    return loss


def pruning_loss(
    model: PreTrainedModel, teacher: PreTrainedModel | None, temperature: float = 2.0, distillation_weight: float = 1.0
) -> Callable[[PreTrainedModel, dict[str, Tensor], torch.Generator], Tensor]:
    """What second-order pruning takes gradients of: what training minimises, wherever that has gradients.

    A teacher that is the model itself agrees with it about everything, so that there is nothing to minimise yet. What
    tells weights apart then is the Fisher information of the model's own loss, which also is the curvature of the
    divergence from the teacher.

    Args:
        model: As it is pruned.
        teacher: Or None; see :func:`distilled_loss` for it and what follows.
        temperature: See there.
        distillation_weight: See there.
    """
    if teacher is None or distillation_weight == 0 or (distillation_weight == 1 and same_weights(model, teacher)):
        return summed_loss
    return distilled_loss(teacher, temperature, distillation_weight)


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    """Whether two models have the same weights, to the bit, fused or not."""
    if type(first) is not type(second) or first.config.model_type != second.config.model_type:
        return False
    found, other = unfuse(first).state_dict(), unfuse(second).state_dict()
    return found.keys() == other.keys() and all(
        value.shape == other[name].shape and torch.equal(value, other[name].to(value)) for name, value in found.items()
    )


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
    """A Trainer with loss (1 - w) · task loss + w · distillation loss + h · hidden-state loss.

    w is ``distillation_weight`` and h is ``hidden_weight``.

    The teacher's outputs come with the data, in columns that begin with ``TEACHER``: a teacher in evaluation mode says
    the same in every epoch, so it is asked once. Its hidden states are too large to keep, and what is masked anew in
    every epoch gets new answers; there the teacher runs beside the student.

    Args:
        distillation_weight: Weight of the teacher, between 0 (task loss only) and 1 (teacher only).
        temperature: See :func:`distillation_loss`.
        hidden_weight: Weight of :func:`hidden_state_loss`.
        teacher: The dense model; asked if ``hidden_weight`` is not zero, or the data lacks its logits.
        compared: Which hidden states are compared.
        **kwargs: As for :class:`transformers.Trainer`; ``label_names`` of the arguments must name those columns.
    """

    def __init__(
        self,
        *,
        distillation_weight: float,
        temperature: float,
        hidden_weight: float = 0.0,
        teacher: PreTrainedModel | None = None,
        compared: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.hidden_weight = hidden_weight
        self.teacher = teacher
        self.compared = compared
        self.head = head_of(self.model)
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
        said = {name: inputs.pop(TEACHER + name) for name in self.head.outputs if TEACHER + name in inputs}
        with_hidden = self.hidden_weight > 0
        outputs = model(**model_inputs(inputs, labels=True), output_hidden_states=with_hidden)
        # each row's are flat, so that they can be columns of a dataset
        wanted = {name: value.to(outputs[name].device).view_as(outputs[name]) for name, value in said.items()}
        if not said or with_hidden:
            assert self.teacher is not None
            with torch.no_grad():
                answers = self.teacher(**model_inputs(inputs), output_hidden_states=with_hidden)
            wanted = wanted or {name: answers[name] for name in self.head.outputs}
        loss = self.distillation_weight * outputs_loss(self.head, outputs, wanted, inputs, self.temperature)
        if self.distillation_weight < 1:
            loss = loss + (1 - self.distillation_weight) * outputs.loss
        if with_hidden:
            mask, states = inputs["attention_mask"], answers.hidden_states
            loss = loss + self.hidden_weight * hidden_state_loss(outputs.hidden_states, states, mask, self.compared)
        return (loss, {name: outputs[name] for name in self.head.outputs}) if return_outputs else loss
