"""Recovery of embedders in closed form: a regression of the dense model's embeddings on those of the pruned one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.devices import Device, running_on
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.prediction import evaluating, predict_outputs
from bertsurgeon.tasks import Data, as_dataset, check_same_head

if TYPE_CHECKING:
    from datasets import Dataset

MAX_TOKENS = 262_144
"""Tokens of the texts that a regression uses at most, which limits its time."""
MIN_TEXTS = 64
"""Texts that a regression needs at least."""
DAMPINGS = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 5))
"""Values of λ that are compared, relative to the mean eigenvalue of the second moments."""


class Regression(NamedTuple):
    """A matrix that maps embeddings to others, as near to the identity as the texts demand.

    Attributes:
        matrix: Shape (width, width): an embedding z becomes z @ matrix.
        damping: The λ that was chosen.
        before: Mean squared distance of the embeddings from their targets, divided by the mean square of the targets.
        after: The same with the matrix, each text under the matrix of all other texts (leave-one-out).
    """

    matrix: Tensor
    damping: float
    before: float
    after: float


@dataclass(frozen=True)
class RefitReport:
    """What a refit did.

    Attributes:
        texts: Texts of the regression.
        tokens: Their tokens.
        damping: See :class:`Regression`.
        before: See :class:`Regression`.
        after: See :class:`Regression`; equal to ``before`` if no matrix was better than none.
    """

    texts: int
    tokens: int
    damping: float
    before: float
    after: float


def regress(embeddings: Tensor, targets: Tensor) -> Regression:
    """Regresses targets on embeddings by a ridge regression that shrinks toward the identity.

    It minimizes Σᵢ ‖zᵢ M − tᵢ‖² + λ μ ‖M − I‖² with μ the mean eigenvalue of Σᵢ zᵢᵀ zᵢ. Of ``DAMPINGS``, λ is the one
    with the least error if each text is left out in turn, which needs no further regressions: that error is
    eᵢ / (1 − hᵢ) with the residual eᵢ and the leverage hᵢ (PRESS; Allen, 1974, Technometrics 16(1)).

    Args:
        embeddings: z, shape (texts, width).
        targets: t, shape (texts, width).
    """
    z, t = embeddings.double(), targets.double()
    missing, scale = t - z, t.square().sum()
    eigenvalues, directions = torch.linalg.eigh(z.T @ z)
    eigenvalues = eigenvalues.clamp_min(0)
    rotated = z @ directions
    squares, cross = rotated.square(), rotated.T @ missing
    best: tuple[float, float, Tensor] | None = None
    for damping in DAMPINGS:
        damped = eigenvalues + damping * eigenvalues.mean()
        change = cross / damped[:, None]
        leverage = (squares / damped).sum(1)
        residuals = (missing - rotated @ change) / (1 - leverage).clamp_min(1e-9)[:, None]
        error = float(residuals.square().sum() / scale)
        if best is None or error < best[0]:
            best = error, damping, change
    assert best is not None
    matrix = torch.eye(z.shape[1], dtype=torch.float64, device=z.device) + directions @ best[2]
    return Regression(matrix, best[1], float(missing.square().sum() / scale), best[0])


class EmbeddingRefit:
    """Refits any number of embedders that were pruned from one teacher; the teacher runs once, when first needed.

    Args:
        teacher: The dense embedder.
        data: Tokenized texts without labels, of which as many are drawn as have ``max_tokens``.
        tokenizer: Pads the batches.
        max_tokens: See ``MAX_TOKENS``.
        seed: Fixes which texts are drawn.
        batch_size: Texts per batch.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        data: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = MAX_TOKENS,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        self.teacher, self.tokenizer, self.batch_size = teacher, tokenizer, batch_size
        self.texts, self.tokens = _draw(data, max_tokens, seed)
        self._targets: Tensor | None = None

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel | None,
        data: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        wanted: bool | None = None,
    ) -> EmbeddingRefit | None:
        """Returns a refit of the models of a teacher; None if there will be none.

        That is so if it is unwanted, if the teacher is no embedder, or for want of texts, which a note reports.

        Raises:
            OptionError: If ``wanted`` is given, and the teacher is no embedder.
        """
        if not isinstance(teacher, Embedder):
            if wanted is not None:
                raise OptionError(
                    "--refit and --no-refit are for sentence embedders with a dense model to compare them with; leave "
                    "them out."
                )
            return None
        if wanted is False:
            return None
        refit = cls(teacher, data, tokenizer, seed=seed)
        if len(refit.texts) < MIN_TEXTS:
            progress.note(f"The embeddings are not refit: that needs {MIN_TEXTS} texts, not {len(refit.texts)}.")
            return None
        return refit

    def run_teacher(self) -> Tensor:
        """Returns the teacher's embeddings of the texts, shape (texts, width)."""
        if self._targets is None:
            self._targets = self._embed(self.teacher, "Running the teacher")
        return self._targets

    def apply(self, model: PreTrainedModel) -> RefitReport:
        """Refits a model in place (:func:`refit_embeddings`).

        Raises:
            DataError: If there are too few texts.
        """
        assert isinstance(model, Embedder)
        if len(self.texts) < MIN_TEXTS:
            raise DataError(
                f"A refit of embeddings needs {MIN_TEXTS} texts or more, not {len(self.texts)}; pass more, or leave it "
                "out."
            )
        targets = self.run_teacher()
        regression = regress(self._embed(model, "Refitting the embeddings"), targets)
        after = min(regression.after, regression.before)
        if regression.after < regression.before:
            model.transform_embeddings(regression.matrix)
        return RefitReport(len(self.texts), self.tokens, regression.damping, regression.before, after)

    def _embed(self, model: PreTrainedModel, description: str) -> Tensor:
        """Returns the embeddings of the texts, shape (texts, width)."""
        with evaluating(model):
            outputs = predict_outputs(model, self.texts, self.tokenizer, self.batch_size, description)
        return torch.stack([row["sentence_embedding"].flatten() for row in outputs])


def refit_embeddings(
    model: PreTrainedModel,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher: PreTrainedModel,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    batch_size: int = 64,
    device: Device | None = None,
) -> RefitReport:
    """Brings a pruned embedder's embeddings nearer to the dense model's by a matrix after the pooling.

    Nothing is trained. The matrix (:func:`regress`) is merged into a linear module before the normalization, or becomes
    one (a ``Dense`` of sentence-transformers, without bias or activation). It runs once per text, which takes no time
    that could be measured. If embeddings are normalized, both sides of the regression are. The texts should be those
    that the model will be used on, such as the documents of a search: on others, embeddings can be worse than before.

    Args:
        model: The pruned or recovered embedder, changed in place.
        data: Texts, a dataset, or batches, without labels.
        tokenizer: Tokenizes texts and pads the batches.
        teacher: The dense embedder.
        max_tokens: Texts are drawn until they have as many tokens.
        seed: Fixes which texts are drawn.
        batch_size: Texts per batch.
        device: Where the models run; None for the device of each if that is no CPU, else for the accelerator of the
            machine, if it has one.

    Returns:
        The number of texts, and the relative squared distance from the teacher's embeddings before and after, by
        leave-one-out. Where no matrix is better than none, the model is left as it is.

    Raises:
        ModelError: If a model is no embedder, or their embeddings differ in width.
        DataError: If there are fewer than 64 texts.

    Example:
        >>> from bertsurgeon import AutoConfig, Sparsity, prune, refit_embeddings  # doctest: +SKIP
        >>> pruned = prune(dense, AutoConfig(Sparsity(0.5)), texts, tokenizer).model  # doctest: +SKIP
        >>> report = refit_embeddings(pruned, texts, tokenizer, teacher=dense)  # doctest: +SKIP
    """
    for one in (model, teacher):
        if not isinstance(one, Embedder):
            raise ModelError(f"{type(one).__name__} makes no sentence embeddings; a refit is for embedders alone.")
    check_same_head(model, teacher)
    texts = as_dataset(data, tokenizer, model)
    refit = EmbeddingRefit(teacher, texts, tokenizer, max_tokens=max_tokens, seed=seed, batch_size=batch_size)
    with running_on(device, model, teacher):
        return refit.apply(model)


def _draw(data: Dataset, max_tokens: int, seed: int) -> tuple[Dataset, int]:
    """Draws texts until they have as many tokens; returns them and the number of their tokens."""
    order = np.random.default_rng(seed).permutation(len(data))
    lengths = np.array([len(ids) for ids in data["input_ids"]], dtype=np.int64)[order]
    totals = lengths.cumsum()
    count = max(1, int(np.searchsorted(totals, max_tokens, side="right")))
    chosen = order[:count]
    return data.select(np.sort(chosen)), int(lengths[:count].sum())
