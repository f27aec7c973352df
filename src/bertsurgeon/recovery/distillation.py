"""Distillation: losses that compare a student with its dense teacher, and the Trainer that minimizes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bertsurgeon.architectures import unfuse
from bertsurgeon.calibration import summed_loss
from bertsurgeon.recovery.selection import ScoringTrainer
from bertsurgeon.tasks import Distribution, Head, Outputs, default_distribution, head_of, model_inputs

TEACHER_PREFIX = "teacher_"
"""Prefix of the columns that hold the teacher's outputs."""


def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, distribution: Distribution | None = None
) -> Tensor:
    """Computes the divergence of the student's logits from the teacher's, averaged over the predictions.

    The divergence is ``T² · KL(teacher ‖ student)`` at temperature T for classes (Hinton et al., 2015, arXiv
    1503.02531), its mean over the classes where each is predicted independently, and the squared difference for a
    regression.

    Args:
        student: Logits, shape (predictions, choices).
        teacher: Logits, shape (predictions, choices).
        temperature: Softens both distributions; ignored for a regression.
        distribution: Family whose parameters the logits are; None for categorical, or a regression if there is a single
            choice.

    Returns:
        A scalar.
    """
    family = distribution or default_distribution(student)
    return family.divergence(student.float(), teacher.float(), temperature)


def outputs_loss(
    head: Head, student: Outputs, teacher: Outputs, batch: Mapping[str, Tensor], temperature: float
) -> Tensor:
    """Computes :func:`distillation_loss` of all predictions for a batch, averaged over the outputs of the head.

    Args:
        head: The head that both models share.
        student: The student's outputs by name.
        teacher: The teacher's outputs by name.
        batch: Inputs of both; padding, and all but the first token of a word that is classified, are left out.
        temperature: See :func:`distillation_loss`.

    Returns:
        A scalar.
    """
    pairs = zip(head.predictions(student, batch), head.predictions(teacher, batch), strict=True)
    losses = [distillation_loss(ours.z, target.z, temperature, ours.distribution) for ours, target in pairs]
    return torch.stack(losses).mean()


def hidden_state_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, compared: Sequence[int]
) -> Tensor:
    """Computes the mean squared difference of hidden states, as a share of the variance of the teacher's.

    Args:
        student: The student's hidden states (embeddings, then each layer), each of shape (batch, tokens, hidden).
        teacher: The teacher's hidden states, of the same shapes.
        mask: 1 for real tokens, shape (batch, tokens).
        compared: Indices of the hidden states that are compared.

    Returns:
        A scalar, the mean over ``compared``.
    """
    real = mask.bool()
    losses = []
    for index in compared:
        targets = teacher[index][real].detach().float()
        losses.append(F.mse_loss(student[index][real].float(), targets) / targets.var(0).mean())
    return torch.stack(losses).mean()


def distilled_loss(
    teacher: PreTrainedModel, temperature: float = 2.0, distillation_weight: float = 1.0
) -> Callable[[PreTrainedModel, Mapping[str, Tensor], torch.Generator], Tensor]:
    """Makes the loss that training with a teacher minimizes, summed over a batch, for gradient statistics.

    Args:
        teacher: The dense model; runs in evaluation mode, without gradients.
        temperature: See :func:`distillation_loss`.
        distillation_weight: Weight of the teacher's outputs, between 0 and 1; labels are needed below 1.

    Returns:
        A function of the model, a batch and a generator, which it does not use.
    """

    def loss(model: PreTrainedModel, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            targets = teacher.eval()(**model_inputs(batch))
        outputs = model(**model_inputs(batch, labels=distillation_weight < 1))
        head = head_of(model)
        loss = distillation_weight * outputs_loss(head, outputs, targets, batch, temperature)
        if distillation_weight < 1:
            loss = loss + (1 - distillation_weight) * outputs.loss
        return loss * head.num_losses(batch)

    return loss


def pruning_loss(
    model: PreTrainedModel, teacher: PreTrainedModel | None, temperature: float = 2.0, distillation_weight: float = 1.0
) -> Callable[[PreTrainedModel, dict[str, Tensor], torch.Generator], Tensor]:
    """Chooses the loss whose gradients second-order pruning uses: that of the training, unless its gradient vanishes.

    The distillation loss of a model that still equals its teacher is at its minimum, so its gradients are zero. The
    Fisher information of the task loss takes its place; it is also the curvature of the divergence from the teacher.

    Args:
        model: The model that is pruned.
        teacher: The dense model, or None.
        temperature: See :func:`distillation_loss`.
        distillation_weight: See :func:`distilled_loss`.

    Returns:
        A function of the model, a batch and a generator, which returns the sum of the losses of the batch.
    """
    if teacher is None or distillation_weight == 0 or (distillation_weight == 1 and same_weights(model, teacher)):
        return summed_loss
    return distilled_loss(teacher, temperature, distillation_weight)


def same_weights(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    """Returns True if two models have the same weights bit for bit, whether their matrices are fused or not."""
    if type(first) is not type(second) or first.config.model_type != second.config.model_type:
        return False
    weights, others = unfuse(first).state_dict(), unfuse(second).state_dict()
    return weights.keys() == others.keys() and all(
        value.shape == others[name].shape and torch.equal(value, others[name].to(value))
        for name, value in weights.items()
    )


class DistillationTrainer(ScoringTrainer):
    """A Trainer that minimizes (1 − w) · task loss + w · distillation loss + h · hidden-state loss.

    w is ``distillation_weight`` and h is ``hidden_weight``.

    The teacher's outputs are columns of the data that begin with ``TEACHER_PREFIX``: in evaluation mode they are the
    same in every epoch and are computed once. The teacher runs beside the student for hidden states, which are too
    large to store, and for tokens that are masked anew in every epoch.

    Args:
        distillation_weight: Weight of the teacher's outputs, between 0 (task loss only) and 1 (teacher only).
        temperature: See :func:`distillation_loss`.
        hidden_weight: Weight of :func:`hidden_state_loss`.
        teacher: The dense model; needed if ``hidden_weight`` is not zero or the data lacks the teacher's outputs.
        compared: Indices of the hidden states that are compared.
        **kwargs: As for :class:`ScoringTrainer`; ``label_names`` of the arguments must name those columns.
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
        # the loss is a mean over the batch, so the Trainer must divide it when it accumulates gradients
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the weighted sum of the losses (see the class)."""
        inputs = dict(inputs)
        stored = {
            name: inputs.pop(TEACHER_PREFIX + name) for name in self.head.outputs if TEACHER_PREFIX + name in inputs
        }
        with_hidden = self.hidden_weight > 0
        outputs = model(**model_inputs(inputs, labels=True), output_hidden_states=with_hidden)
        # columns of a dataset hold them as flat rows
        targets = {name: value.to(outputs[name].device).view_as(outputs[name]) for name, value in stored.items()}
        if not stored or with_hidden:
            assert self.teacher is not None
            with torch.no_grad():
                teacher_outputs = self.teacher(**model_inputs(inputs), output_hidden_states=with_hidden)
            targets = targets or {name: teacher_outputs[name] for name in self.head.outputs}
        loss = self.distillation_weight * outputs_loss(self.head, outputs, targets, inputs, self.temperature)
        if self.distillation_weight < 1:
            loss = loss + (1 - self.distillation_weight) * outputs.loss
        if with_hidden:
            mask, states = inputs["attention_mask"], teacher_outputs.hidden_states
            loss = loss + self.hidden_weight * hidden_state_loss(outputs.hidden_states, states, mask, self.compared)
        return (loss, {name: outputs[name] for name in self.head.outputs}) if return_outputs else loss
