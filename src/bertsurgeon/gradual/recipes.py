"""Recipes of gradual pruning: YAML files whose sections are dataclasses, read and checked by pydantic.

The packaged recipes hold the numbers of the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259), except for
Fisher blocks of 48 weights: the paper's 50 do not divide a row, so that blocks would extend over two rows.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Strict

from bertsurgeon.errors import OptionError
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import StepConfig, Update
from bertsurgeon.options import REQUIRED, documented, option

Number = Annotated[float, Strict()]
"""A number, for which pydantic would otherwise also accept true and false."""

Integer = Annotated[int, Strict()]
"""A whole number, for which pydantic would otherwise also accept 1.0, true and false."""

Rewinds = Literal["none", "pruning"] | Number | tuple[Number, ...]
"""When the learning rate is reset: never, at each pruning, every so many epochs, or at these epochs."""


class _Section:
    """Makes pydantic refuse keys that a section does not have."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@documented
@dataclass(frozen=True)
class Pruning(_Section):
    """Schedule and options of the prunings. Times are in epochs."""

    sparsity: Number = option(REQUIRED, "Share of the encoder's weights that is zero after the last pruning.")
    first_sparsity: Number = option(
        REQUIRED, "Share that is zero after the first pruning, from which the sparsity rises by a cubic schedule."
    )
    start: Number = option(REQUIRED, "Time of the first pruning.", cli=False)
    end: Number = option(REQUIRED, "Time of the last pruning.", cli=False)
    every: Number = option(REQUIRED, "Time between two prunings.", cli=False)
    pattern: str = option("unstructured", "Weights that are pruned together: unstructured, block (1x4), 1xN, or N:M.")
    update: Update = option("obert", "Update of the remaining weights.", choices=get_args(Update), cli=False)
    block_size: Integer = option(48, "Number of weights in a Fisher block.", cli=False)
    damping: Number = option(1e-7, "Damping λ of the Fisher information, an absolute value.", cli=False)
    gradients: Integer = option(1024, "Number m of gradients of each pruning.", cli=False)
    gradient_batch_size: Integer = option(16, "Texts whose mean gradient counts as one.", cli=False)

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        for name in ("sparsity", "first_sparsity"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(f"pruning.{name} must lie strictly between 0 and 1, not {getattr(self, name):g}.")
        if self.first_sparsity > self.sparsity:
            raise OptionError(
                f"pruning.first_sparsity must not exceed pruning.sparsity, but {self.first_sparsity:g} is more than "
                f"{self.sparsity:g}."
            )
        if not 0 <= self.start <= self.end:
            raise OptionError(
                f"pruning.start must be at least 0 and pruning.end not before it, not {self.start:g} and {self.end:g}."
            )
        for name in ("every", "damping"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OptionError(f"pruning.{name} must be greater than 0, not {getattr(self, name):g}.")
        for name in ("block_size", "gradients", "gradient_batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"pruning.{name} must be at least 1, not {getattr(self, name)}.")
        pattern = Pattern.parse(self.pattern)
        if pattern.sparsity is not None and self.sparsity != pattern.sparsity:
            raise OptionError(
                f"The pattern {pattern.name} removes a share of {pattern.sparsity:g}, so pruning.sparsity must be "
                f"{pattern.sparsity:g}, not {self.sparsity:g}."
            )

    @property
    def epochs(self) -> list[float]:
        """The times of the prunings in ascending order, from the start to the end."""
        intervals = int((self.end - self.start) / self.every - 1e-9)  # rounding must not add a time next to the end
        times = [self.start + number * self.every for number in range(intervals + 1)] if self.start < self.end else []
        return [*times, self.end]

    def sparsity_at(self, epoch: float) -> float:
        """Computes s₁ + (s₀ − s₁)(1 − x)³, x from 0 at the start to 1 at the end (Zhu and Gupta, 2017, 1710.01878).

        Args:
            epoch: Time from the beginning of the training, in epochs.
        """
        x = (epoch - self.start) / (self.end - self.start) if self.end > self.start else 1.0
        return self.sparsity - (self.sparsity - self.first_sparsity) * (1 - x) ** 3

    def step_config(self, memory: int, seed: int) -> StepConfig:
        """Makes the options of a single pruning.

        Args:
            memory: Memory for Fisher blocks, in bytes.
            seed: Fixes every random choice.
        """
        return StepConfig(
            pattern=Pattern.parse(self.pattern),
            update=self.update,
            block_size=self.block_size,
            damping=self.damping,
            batch_size=self.gradient_batch_size,
            memory=memory,
            seed=seed,
        )


@documented
@dataclass(frozen=True)
class LearningRate(_Section):
    """Learning rate that falls linearly and is reset to its start at each rewind."""

    start: Number = option(REQUIRED, "Learning rate at the beginning and after each rewind.", cli=False)
    end: Number = option(REQUIRED, "Learning rate just before the next rewind, or at the end.", cli=False)
    rewinds: Rewinds = option(
        "none",
        "Times of the rewinds: none, pruning (at each pruning), a number (every so many epochs), or a list of epochs.",
        cli=False,
    )

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        for name in ("start", "end"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OptionError(f"learning_rate.{name} must be greater than 0, not {getattr(self, name):g}.")
        times = (self.rewinds,) if isinstance(self.rewinds, float) else self.rewinds
        if isinstance(times, tuple) and not all(0 < time < float("inf") for time in times):
            raise OptionError("learning_rate.rewinds must be greater than 0, as the learning rate begins at its start.")


@documented
@dataclass(frozen=True)
class Distillation(_Section):
    """Weight and temperature of the distillation, which apply if there is a teacher."""

    distillation_weight: Number = option(
        1.0, "Weight of the teacher's outputs in the loss, 0 (labels only) to 1 (teacher only).", cli=False
    )
    temperature: Number = option(2.0, "Temperature of the distillation.", cli=False)

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        if not 0 <= self.distillation_weight <= 1:
            raise OptionError(
                f"distillation.distillation_weight must lie between 0 and 1, not {self.distillation_weight:g}."
            )
        if not 0 < self.temperature < float("inf"):
            raise OptionError(f"distillation.temperature must be greater than 0, not {self.temperature:g}.")


@documented
@dataclass(frozen=True)
class MaskedLanguageModeling(_Section):
    """Masked language modeling in place of a task, with other masked tokens in every epoch.

    As for BERT (Devlin et al., 2018, arXiv 1810.04805), 80 % of the selected tokens are replaced by the mask token,
    10 % by a random token, and 10 % are unchanged.
    """

    probability: Number = option(0.15, "Probability that a token is selected.", cli=False)

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            OptionError: If the value is out of range.
        """
        if not 0 < self.probability < 1:
            raise OptionError(f"masked_lm.probability must lie strictly between 0 and 1, not {self.probability:g}.")


@documented
@dataclass(frozen=True)
class Quantization(_Section):
    """Schedule of quantization-aware training for INT8. Times are in epochs."""

    start: Number = option(
        REQUIRED, "Time from which the encoder's weights, their inputs and the embeddings are rounded.", cli=False
    )
    freeze: Number | None = option(
        None, "Time from which the ranges of the inputs no longer follow the data. Default: never.", cli=False
    )

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        if not 0 <= self.start < float("inf"):
            raise OptionError(f"quantization.start must be at least 0, not {self.start:g}.")
        if self.freeze is not None and not self.start <= self.freeze < float("inf"):
            raise OptionError(
                f"quantization.freeze must not come before quantization.start, {self.start:g}, as {self.freeze:g} does."
            )


@documented
@dataclass(frozen=True)
class Recipe(_Section):
    """A training with everything that happens during it."""

    epochs: Number = option(REQUIRED, "Passes over the training data; the command line rescales all times to it.")
    batch_size: Integer = option(REQUIRED, "Texts per training step.", cli=False)
    learning_rate: LearningRate = option(REQUIRED, "Learning rate over time.", cli=False)
    distillation: Distillation = option(Distillation(), "Weight and temperature of the teacher.", cli=False)
    pruning: Pruning | None = option(
        None, "Schedule and options of the prunings; without it the zeros of a sparse model are kept.", cli=False
    )
    quantization: Quantization | None = option(None, "Schedule of quantization-aware training.", cli=False)
    masked_lm: MaskedLanguageModeling | None = option(None, "Masked language modeling in place of a task.", cli=False)
    weight_decay: Number = option(0.0, "Weight decay of AdamW.", cli=False)
    micro_batch_size: Integer | None = option(
        None, "Texts per forward pass; must divide batch_size. Default: all texts of a step.", cli=False
    )

    def __post_init__(self) -> None:
        """Checks the ranges, and that the sections agree.

        Raises:
            OptionError: If a value is out of range or contradicts another one.
        """
        if not 0 < self.epochs < float("inf"):
            raise OptionError(f"epochs must be greater than 0, not {self.epochs:g}.")
        if self.batch_size < 1:
            raise OptionError(f"batch_size must be at least 1, not {self.batch_size}.")
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise OptionError(
                f"micro_batch_size must divide batch_size, {self.batch_size}, which {self.micro_batch_size} does not."
            )
        if not 0 <= self.weight_decay < float("inf"):
            raise OptionError(f"weight_decay must be at least 0, not {self.weight_decay:g}.")
        if self.pruning is not None and self.pruning.end >= self.epochs:
            raise OptionError(
                f"pruning.end must come before the end of the training, at {self.epochs:g} epochs, not at "
                f"{self.pruning.end:g}: the remaining weights must recover."
            )
        if self.quantization is not None:
            self._check_quantization(self.quantization)
        rewinds = self.learning_rate.rewinds
        if rewinds == "pruning" and self.pruning is None:
            raise OptionError("learning_rate.rewinds cannot be 'pruning' in a recipe without the section pruning.")
        if isinstance(rewinds, tuple) and any(time >= self.epochs for time in rewinds):
            raise OptionError(
                f"learning_rate.rewinds must come before the end of the training, at {self.epochs:g} epochs, not at "
                f"{max(rewinds):g}."
            )

    def _check_quantization(self, quantization: Quantization) -> None:
        if quantization.start >= self.epochs:
            raise OptionError(
                f"quantization.start must come before the end of the training, at {self.epochs:g} epochs, not at "
                f"{quantization.start:g}."
            )
        if self.pruning is not None and quantization.start < self.pruning.end:
            raise OptionError(
                f"quantization.start must not come before pruning.end, at {self.pruning.end:g} epochs, but is at "
                f"{quantization.start:g}: pruning needs exact weights."
            )

    def with_pruning(self, **changes: Any) -> "Recipe":
        """Returns the recipe with other values in its section ``pruning``.

        Args:
            **changes: Values by their names in :class:`Pruning`.

        Raises:
            OptionError: If the recipe prunes nothing, or the values do not fit.
        """
        if self.pruning is None:
            raise OptionError(f"The recipe prunes nothing, so {', '.join(changes)} cannot be changed.")
        return replace(self, pruning=replace(self.pruning, **changes))

    def scaled(self, epochs: float) -> "Recipe":
        """Returns the recipe with all its times rescaled.

        Args:
            epochs: Length of the new recipe.

        Raises:
            OptionError: If ``epochs`` is not positive.
        """
        if not 0 < epochs < float("inf"):
            raise OptionError(f"epochs must be greater than 0, not {epochs:g}.")
        factor = epochs / self.epochs
        rate, pruning, quantization = self.learning_rate, self.pruning, self.quantization
        if isinstance(rate.rewinds, float):
            rate = replace(rate, rewinds=rate.rewinds * factor)
        elif isinstance(rate.rewinds, tuple):
            rate = replace(rate, rewinds=tuple(time * factor for time in rate.rewinds))
        if pruning is not None:
            times = {name: getattr(pruning, name) * factor for name in ("start", "end", "every")}
            pruning = replace(pruning, **times)
        if quantization is not None:
            freeze = None if quantization.freeze is None else quantization.freeze * factor
            quantization = replace(quantization, start=quantization.start * factor, freeze=freeze)
        return replace(self, epochs=epochs, learning_rate=rate, pruning=pruning, quantization=quantization)
