"""Heads of models: which predictions their outputs hold, how many losses they average, how two models are compared."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bertsurgeon.tasks.collate import IGNORED
from bertsurgeon.tasks.distributions import CATEGORICAL, Distribution

Outputs = Mapping[str, Tensor]
"""A model's outputs by name."""


@dataclass(frozen=True)
class Prediction:
    """Predictions of one family of distributions.

    Attributes:
        z: Parameters, shape (predictions, choices). Padding is removed or, where tokens are the choices, masked
            (:func:`mask_logits`).
        distribution: Family that ``z`` parameterizes.
    """

    z: Tensor
    distribution: Distribution


@dataclass(frozen=True)
class Head(ABC):
    """One kind of head: all that losses, comparisons and exports depend on."""

    class_endings: ClassVar[tuple[str, ...]]
    """Endings of the names of its model classes."""

    outputs: ClassVar[dict[str, bool]] = {"logits": False}
    """Names of the outputs that hold predictions; True for those with one entry per token."""

    recovery_rate: ClassVar[float | None] = None
    """Learning rate with which a pruned model is recovered; None if its agreement with the teacher sets it."""

    def fits(self, config: PretrainedConfig) -> bool:
        """Returns whether a model of such a class has this head, for classes that several heads share.

        Args:
            config: Configuration of the model.
        """
        return True

    @abstractmethod
    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns all predictions of a model about a batch.

        Args:
            outputs: Outputs of the model.
            batch: Inputs of the model, and ``word_starts`` for token classification.
        """

    def num_losses(self, batch: Mapping[str, Tensor]) -> int:
        """Returns how many losses the model's loss for a labeled batch is the mean of.

        Args:
            batch: Padded batch.
        """
        return len(next(iter(batch.values())))

    def agreement(
        self, first: Sequence[Outputs], second: Sequence[Outputs], batches: Sequence[Mapping[str, Tensor]]
    ) -> float:
        """Returns the agreement of two models on some batches, in percent (:meth:`Distribution.agreement`).

        Args:
            first: Outputs of the one model for each batch.
            second: Outputs of the other model for each batch.
            batches: The batches.
        """
        predictions = [
            [self.predictions(outputs, batch) for outputs, batch in zip(model_outputs, batches, strict=True)]
            for model_outputs in (first, second)
        ]
        values, other_values = (
            torch.cat([p.distribution.decode(p.z) for parts in model_predictions for p in parts])
            for model_predictions in predictions
        )
        return predictions[0][0][0].distribution.agreement(values, other_values)

    def comparison(
        self, first: Sequence[Outputs], second: Sequence[Outputs], batches: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, float]:
        """Returns all measures of agreement by name, in percent; needs no labels. Arguments as :meth:`agreement`."""
        return {"agreement": self.agreement(first, second, batches)}


@dataclass(frozen=True)
class ImageClassification(Head):
    """One of several classes per image. Such models can be pruned; there are no tasks with images."""

    class_endings: ClassVar[tuple[str, ...]] = ("ForImageClassification",)

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns one prediction per image."""
        return [Prediction(outputs["logits"], CATEGORICAL)]


@dataclass(frozen=True)
class LanguageModel(Head):
    """The next token, predicted at every token."""

    class_endings: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")
    outputs: ClassVar[dict[str, bool]] = {"logits": True}

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns one prediction per token, without padding."""
        return [Prediction(outputs["logits"][batch["attention_mask"].bool()], CATEGORICAL)]

    def num_losses(self, batch: Mapping[str, Tensor]) -> int:
        """Returns the number of labels, or of tokens if there are none; nothing predicts the first one of a text."""
        if "labels" in batch:
            return int((batch["labels"][:, 1:] != IGNORED).sum())
        return int(batch["attention_mask"][:, 1:].sum())


@dataclass(frozen=True)
class MaskedLanguageModel(Head):
    """The token itself, predicted at every token; labels exist at masked tokens, and their mean is a text's loss."""

    class_endings: ClassVar[tuple[str, ...]] = ("ForMaskedLM",)
    outputs: ClassVar[dict[str, bool]] = {"logits": True}

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """Returns one prediction per token, without padding."""
        return [Prediction(outputs["logits"][batch["attention_mask"].bool()], CATEGORICAL)]


def mask_logits(z: Tensor, mask: Tensor) -> Tensor:
    """Excludes choices from a softmax: where ``mask`` is False, logits become half of the lowest finite number.

    Args:
        z: Logits, shape (predictions, choices).
        mask: True for choices that remain, of the same shape.
    """
    return z.masked_fill(~mask, torch.finfo(z.dtype).min / 2)
