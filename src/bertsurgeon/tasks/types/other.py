"""Heads that can be pruned without a task of ours: nobody reads their data or scores them here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bertsurgeon.tasks.collate import IGNORED
from bertsurgeon.tasks.distributions import CATEGORICAL
from bertsurgeon.tasks.types.base import Head, Outputs, Prediction


@dataclass(frozen=True)
class ImageClassification(Head):
    """One of several classes for every image."""

    class_endings: ClassVar[tuple[str, ...]] = ("ForImageClassification",)

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One for every image."""
        return [Prediction(outputs["logits"], CATEGORICAL)]


@dataclass(frozen=True)
class LanguageModel(Head):
    """The next token, at every token."""

    class_endings: ClassVar[tuple[str, ...]] = ("ForCausalLM", "LMHeadModel")
    outputs: ClassVar[dict[str, bool]] = {"logits": True}

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One at every real token."""
        return [Prediction(outputs["logits"][batch["attention_mask"].bool()], CATEGORICAL)]

    def losses(self, batch: Mapping[str, Tensor]) -> int:
        """Labels, but for the first token's, which nothing predicts; without labels, tokens."""
        if "labels" in batch:
            return int((batch["labels"][:, 1:] != IGNORED).sum())
        return int(batch["attention_mask"][:, 1:].sum())


@dataclass(frozen=True)
class MaskedLanguageModel(Head):
    """The token itself, at every token; with labels only where it was hidden, and a text's loss is their mean."""

    class_endings: ClassVar[tuple[str, ...]] = ("ForMaskedLM",)
    outputs: ClassVar[dict[str, bool]] = {"logits": True}

    def predictions(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One at every real token."""
        return [Prediction(outputs["logits"][batch["attention_mask"].bool()], CATEGORICAL)]
