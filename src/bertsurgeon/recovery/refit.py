"""Recovery of embedders in closed form: a regression of the dense model's embeddings on those of the pruned one."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.calibration import Batch
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
READ_AT_ONCE = 1_000
"""Rows of the data in memory while texts are drawn."""
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
        after: See :class:`Regression`; of no use if the matrix was not applied.
        applied: False if no matrix was better than none, so that the model was left as it is.
    """

    texts: int
    tokens: int
    damping: float
    before: float
    after: float
    applied: bool

    @property
    def sentence(self) -> str:
        """What was done, in one sentence."""
        if not self.applied:
            return "The embeddings are not refit: no matrix brings them nearer to the dense model's."
        return (
            f"Embeddings refit on {self.texts:,} texts: relative squared distance from the dense model's "
            f"{self.before:.3f} before, {self.after:.3f} after (each text left out)."
        )


def regress(embeddings: Tensor, targets: Tensor, normalized: bool) -> Regression:
    """Regresses targets on embeddings by a ridge regression that shrinks toward the identity.

    It minimizes Σᵢ ‖zᵢ M − tᵢ‖² + λ μ ‖M − I‖² with μ the mean eigenvalue of Σᵢ zᵢᵀ zᵢ. Of ``DAMPINGS``, λ is the one
    with the least error if each text is left out in turn, which needs no further regressions: that error is
    eᵢ / (1 − hᵢ) with the residual eᵢ and the leverage hᵢ (PRESS; Allen, 1974, Technometrics 16(1)). Errors are those
    of embeddings as the model returns them: at unit length if it normalizes them.

    Args:
        embeddings: z, shape (texts, width).
        targets: t, shape (texts, width).
        normalized: Whether the model scales zM to unit length.
    """
    z, t = embeddings.double().cpu(), targets.double().cpu()
    missing, scale = t - z, t.square().sum()

    def error_of(residuals: Tensor) -> float:
        predicted = t - residuals
        return float(((F.normalize(predicted, dim=-1) if normalized else predicted) - t).square().sum() / scale)

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
        error = error_of(residuals)
        if best is None or error < best[0]:
            best = error, damping, change
    assert best is not None
    matrix = torch.eye(z.shape[1], dtype=torch.float64, device=z.device) + directions @ best[2]
    return Regression(matrix, best[1], error_of(missing), best[0])


class EmbeddingRefit:
    """Refits any number of embedders that were pruned from one teacher; the teacher runs once, when first needed.

    Args:
        teacher: The dense embedder.
        data: Tokenized texts without labels, of which as many distinct ones are drawn as have ``max_tokens``.
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
        self._data, self._max_tokens, self._seed = data, max_tokens, seed
        self.texts, self.tokens = _draw(data, max_tokens, seed)
        self._targets: Tensor | None = None

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel | None,
        data: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        requested: bool | None = None,
    ) -> EmbeddingRefit | None:
        """Returns a refit of the models of a teacher; None if there will be none.

        That is so if it was declined, the teacher is no embedder, or there are too few texts, which a note reports.

        Raises:
            OptionError: If ``requested`` is given, and the teacher is no embedder.
            DataError: If it is requested, and there are too few texts.
        """
        if not isinstance(teacher, Embedder):
            if requested is not None:
                raise OptionError(
                    "--refit and --no-refit are for sentence embedders with a dense model to compare them with; leave "
                    "them out."
                )
            return None
        if requested is False:
            return None
        refit = cls(teacher, data, tokenizer, seed=seed)
        if requested:
            refit.check()
        elif len(refit.texts) < MIN_TEXTS:
            progress.note(
                f"The embeddings are not refit: that needs {MIN_TEXTS} distinct texts, not {len(refit.texts)}."
            )
            return None
        return refit

    def leave_out(self, calibration: Iterable[Batch]) -> None:
        """Leaves texts of a calibration out, if there are enough others: the models were fitted to them.

        Their errors are smaller than those of other texts, so they tell less.
        """
        self.texts, self.tokens = _draw(self._data, self._max_tokens, self._seed, calibration)
        self._targets = None

    def run_teacher(self) -> Tensor:
        """Returns the teacher's embeddings of the texts, shape (texts, width)."""
        if self._targets is None:
            self._targets = self._embed(self.teacher, "Running the teacher")
        return self._targets

    def apply(self, model: PreTrainedModel) -> RefitReport:
        """Refits a model in place (:func:`refit_embeddings`).

        Raises:
            DataError: If there are too few texts.
            ModelError: If the widths of both models' embeddings differ.
        """
        assert isinstance(model, Embedder)
        self.check()
        targets = self.run_teacher()
        embeddings = self._embed(model, "Refitting the embeddings")
        if embeddings.shape != targets.shape:
            raise ModelError(
                f"The embeddings have widths of {embeddings.shape[1]} and {targets.shape[1]}; pass the dense model "
                "that the other was made from."
            )
        regression = regress(embeddings, targets, model.normalizes)
        applied = regression.after < regression.before
        if applied:
            model.transform_embeddings(regression.matrix)
        return RefitReport(
            len(self.texts), self.tokens, regression.damping, regression.before, regression.after, applied
        )

    def check(self) -> None:
        """Checks that there are enough texts.

        Raises:
            DataError: If there are not.
        """
        if len(self.texts) < MIN_TEXTS:
            raise DataError(
                f"A refit of embeddings needs {MIN_TEXTS} distinct texts or more, not {len(self.texts)}; pass more "
                "(and max_tokens that they fit in), or leave it out."
            )

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
        max_tokens: Texts are drawn until they have as many tokens; copies of a text count once.
        seed: Fixes which texts are drawn.
        batch_size: Texts per batch.
        device: Where the models run; None for the device of each if that is no CPU, else for the accelerator of the
            machine, if it has one.

    Returns:
        The number of texts, and the relative squared distance from the teacher's embeddings before and after, by
        leave-one-out. Where no matrix is better than none, the model is left as it is.

    Raises:
        ModelError: If a model is no embedder, or their embeddings differ in width.
        DataError: If there are fewer than 64 distinct texts.

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


def _draw(data: Dataset, max_tokens: int, seed: int, calibration: Iterable[Batch] = ()) -> tuple[Dataset, int]:
    """Draws distinct texts until they have as many tokens; returns them and the number of their tokens.

    Of a text and its copy, one would be left out while the other stays, and the error would seem smaller than it is.
    """
    used = {
        tuple(ids[mask.bool()].tolist())
        for batch in calibration
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    }
    order = np.random.default_rng(seed).permutation(len(data))
    chosen, tokens = _first_distinct(data, order, max_tokens, used)
    if used and len(chosen) < MIN_TEXTS:
        chosen, tokens = _first_distinct(data, order, max_tokens, set())
    return data.select(sorted(chosen)), tokens


def _first_distinct(
    data: Dataset, order: NDArray[np.int64], max_tokens: int, left_out: Set[tuple[int, ...]]
) -> tuple[list[int], int]:
    """Returns the positions of the first distinct texts in an order that have as many tokens, and their tokens."""
    drawn = set(left_out)
    chosen: list[int] = []
    tokens = 0
    for start in range(0, len(order), READ_AT_ONCE):
        positions = order[start : start + READ_AT_ONCE].tolist()
        for position, ids in zip(positions, data[positions]["input_ids"], strict=True):
            key = tuple(ids)
            if key in drawn:
                continue
            if tokens + len(key) > max_tokens:
                return chosen, tokens
            drawn.add(key)
            chosen.append(position)
            tokens += len(key)
    return chosen, tokens
