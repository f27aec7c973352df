"""Distributions that a model's outputs parameterize: Fisher information, divergence and agreement.

A distribution implements what depends on it alone, whatever the task: directions in which the loss against the model's
own predictions is curved, the divergence of a student from its teacher, and the agreement of two models.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_DECOMPOSED = 512
"""Largest number of choices whose Fisher information is decomposed."""


class Distribution(ABC):
    """A family of distributions with parameters z, shape (predictions, choices)."""

    @abstractmethod
    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """Returns a random u, shaped like z, with E[uuᵀ] = the Fisher information with respect to z.

        Args:
            z: Parameters, shape (predictions, choices).
            signs: Random signs ε, shaped like z.
        """

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Returns the divergence of the student from the teacher, averaged over the predictions; a scalar.

        Args:
            student: Parameters, shape (predictions, choices).
            teacher: Parameters, of the same shape.
            temperature: Softens both distributions, where they have probabilities.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Returns the predicted values, shape (values,) or (values, width)."""

    def agreement(self, first: Tensor, second: Tensor) -> float:
        """Returns the share of equal predicted values (see :meth:`decode`), in percent."""
        return 100 * float((first == second).float().mean())


class Categorical(Distribution):
    """One of several choices; z are the logits of their probabilities p."""

    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """Returns V√Λ ε, whose second moment is diag(p) − ppᵀ = VΛVᵀ.

        Of all roots of this matrix, that along its eigenvectors has the squares of least variance where one eigenvalue
        dominates, which is the case for texts between two classes. For two classes the square is exact. With more than
        ``MAX_DECOMPOSED`` choices the root is √p ∘ ε − p (√p · ε), which needs no decomposition.
        """
        p = z.detach().float().softmax(-1)
        if z.shape[-1] > MAX_DECOMPOSED:
            return (p.sqrt() * signs - p * (p.sqrt() * signs).sum(-1, keepdim=True)).to(z)
        values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2))
        root: Tensor = (vectors * (values.clamp_min(0).sqrt() * signs).unsqueeze(-2)).sum(-1)
        return root.to(z)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Returns ``T² · KL(teacher ‖ student)`` at temperature T (Hinton et al., 2015, arXiv 1503.02531)."""
        divergence = F.kl_div(
            F.log_softmax(student / temperature, dim=-1),
            F.log_softmax(teacher / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence

    def decode(self, z: Tensor) -> Tensor:
        """Returns the most probable choices, shape (predictions,)."""
        return z.argmax(-1)


class Bernoulli(Distribution):
    """Independent binary choices; z are the logits of their probabilities p."""

    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """Returns √(p (1 − p)) ∘ ε, whose second moment is diag(p (1 − p))."""
        p = z.detach().sigmoid()
        return (p * (1 - p)).sqrt() * signs

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Returns ``T² · KL(teacher ‖ student)`` at temperature T, averaged over the choices as the task's loss is."""
        targets = (teacher / temperature).sigmoid()
        cross_entropy = F.binary_cross_entropy_with_logits(student / temperature, targets)
        entropy = F.binary_cross_entropy_with_logits(teacher / temperature, targets)
        return temperature**2 * (cross_entropy - entropy)

    def decode(self, z: Tensor) -> Tensor:
        """Returns True for choices with p > ½, shape (predictions · choices,)."""
        return (z > 0).flatten()


class Normal(Distribution):
    """Real numbers with unit variance; z are their means."""

    def fisher_direction(self, z: Tensor, signs: Tensor) -> Tensor:
        """Returns ε, whose second moment is the identity."""
        return signs

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Returns the mean squared difference; the temperature has no effect."""
        return F.mse_loss(student, teacher)

    def decode(self, z: Tensor) -> Tensor:
        """Returns the means, shape (predictions · choices,)."""
        return z.flatten()

    def agreement(self, first: Tensor, second: Tensor) -> float:
        """Returns 100 times Pearson's correlation; if a side is constant, 100 for equal numbers and 0 for others."""
        if min(float(values.max() - values.min()) for values in (first, second)) == 0:
            return 100.0 * torch.allclose(first, second)
        return 100 * float(torch.corrcoef(torch.stack((first, second)).double())[0, 1])


class Embeddings(Normal):
    """Vectors with unit variance in each direction; z are their means, which applications compare by their angles."""

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Returns the relative squared distance plus the mean squared difference of the cosines within the batch.

        The first term is the regression of Reimers and Gurevych (2020, arXiv 2004.09813), divided by the teacher's
        squared norm; the second is the similarity-preserving distillation of Tung and Mori (2019, arXiv 1907.09682),
        on cosines. The temperature has no effect.
        """
        distance = (student - teacher).square().sum() / teacher.square().sum()
        if len(student) == 1:
            return distance
        cosines, teacher_cosines = (F.normalize(z, dim=-1) @ F.normalize(z, dim=-1).T for z in (student, teacher))
        count = len(student)
        return distance + (cosines - teacher_cosines).fill_diagonal_(0).square().sum() / (count * (count - 1))

    def decode(self, z: Tensor) -> Tensor:
        """Returns the vectors at unit length, shape (predictions, width)."""
        return F.normalize(z, dim=-1)

    def agreement(self, first: Tensor, second: Tensor) -> float:
        """Returns 100 times the mean cosine of both embeddings of a text."""
        return 100 * float((first * second).sum(-1).mean())


CATEGORICAL, BERNOULLI, NORMAL, EMBEDDINGS = Categorical(), Bernoulli(), Normal(), Embeddings()


def default_distribution(logits: Tensor) -> Distribution:
    """Returns the distribution of logits whose head is unknown: one output is a regression, several are classes.

    Args:
        logits: Shape (…, labels).
    """
    return NORMAL if logits.shape[-1] == 1 else CATEGORICAL
