"""What a model's outputs mean: the distributions they are the parameters of.

A distribution knows everything that depends on it alone, whatever the task: in which directions the loss against the
model's own predictions is curved, how far a student's predictions are from its teacher's, whether two models agree.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F


class Distribution(ABC):
    """One family of distributions; z are its parameters, shape (predictions, choices)."""

    @abstractmethod
    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """A random u with E[uuᵀ] = the Fisher information with respect to z, from random signs ε; like z."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far the student is from the teacher, mean over the predictions."""

    @abstractmethod
    def answers(self, z: Tensor) -> Tensor:
        """What is said, shape (answers,)."""

    def agreement(self, first: Tensor, second: Tensor) -> float:
        """How many :meth:`answers` are the same, in percent."""
        return 100 * float((first == second).float().mean())


class Categorical(Distribution):
    """One of several choices, z the logits of their probabilities p."""

    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """√p ∘ ε − p (√p · ε), with second moment diag(p) − ppᵀ."""
        p = z.detach().softmax(-1)
        return p.sqrt() * signs - p * (p.sqrt() * signs).sum(-1, keepdim=True)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """``T² · KL(teacher ‖ student)`` at temperature T (Hinton et al., 2015, arXiv 1503.02531)."""
        divergence = F.kl_div(
            F.log_softmax(student / temperature, dim=-1),
            F.log_softmax(teacher / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence

    def answers(self, z: Tensor) -> Tensor:
        """The most probable choices."""
        return z.argmax(-1)


class Bernoulli(Distribution):
    """Each choice on its own, z the logits of their probabilities p."""

    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """√(p (1 − p)) ∘ ε, with second moment diag(p (1 − p))."""
        p = z.detach().sigmoid()
        return (p * (1 - p)).sqrt() * signs

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """``T² · KL(teacher ‖ student)`` of each choice at temperature T, mean over the choices as in the loss."""
        wanted = (teacher / temperature).sigmoid()
        losses = F.binary_cross_entropy_with_logits(student / temperature, wanted)
        least = F.binary_cross_entropy_with_logits(teacher / temperature, wanted)
        return temperature**2 * (losses - least)

    def answers(self, z: Tensor) -> Tensor:
        """1 for each choice that is more likely than not."""
        return (z > 0).flatten()


class Normal(Distribution):
    """Real numbers with unit variance, z their means."""

    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """ε, with second moment I."""
        return signs

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The mean squared difference; the temperature does not matter."""
        return F.mse_loss(student, teacher)

    def answers(self, z: Tensor) -> Tensor:
        """The numbers."""
        return z.flatten()

    def agreement(self, first: Tensor, second: Tensor) -> float:
        """100 times Pearson's correlation; where one side is a constant, 100 for the same numbers and 0 for others."""
        if min(float(answers.max() - answers.min()) for answers in (first, second)) == 0:
            return 100.0 * torch.allclose(first, second)
        return 100 * float(torch.corrcoef(torch.stack((first, second)).double())[0, 1])


class Embeddings(Normal):
    """Vectors with unit variance in each direction, z their means; what counts in use is the angles between them."""

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The squared distance as a share of the teacher's squared length, and that of the cosines within the batch.

        The first part is the regression of Reimers and Gurevych (2020, arXiv 2004.09813), the second one the
        similarity-preserving distillation of Tung and Mori (2019, arXiv 1907.09682), on cosines. The temperature does
        not matter.
        """
        distance = (student - teacher).square().sum() / teacher.square().sum()
        if len(student) == 1:
            return distance
        left, right = (F.normalize(z, dim=-1) @ F.normalize(z, dim=-1).T for z in (student, teacher))
        count = len(student)
        return distance + (left - right).fill_diagonal_(0).square().sum() / (count * (count - 1))

    def answers(self, z: Tensor) -> Tensor:
        """The directions, shape (answers, width)."""
        return F.normalize(z, dim=-1)

    def agreement(self, first: Tensor, second: Tensor) -> float:
        """100 times the mean cosine of both embeddings of a text."""
        return 100 * float((first * second).sum(-1).mean())


CATEGORICAL, BERNOULLI, NORMAL, EMBEDDINGS = Categorical(), Bernoulli(), Normal(), Embeddings()


def default_distribution(logits: Tensor) -> Distribution:
    """What logits of shape (…, labels) are where nothing else is known: a single one is a regression."""
    return NORMAL if logits.shape[-1] == 1 else CATEGORICAL
