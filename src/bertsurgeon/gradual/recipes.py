"""Recipes of gradual pruning: readable YAML, checked key by key.

The packaged ones hold the numbers of the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259), but for Fisher
blocks of 48 weights: 50, the paper's, do not divide a row, and would straddle it.
"""

import types
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from bertsurgeon.errors import OptionError
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.methods.obert.step import StepOptions, Update

Rewinds = Literal["none", "pruning"] | float | tuple[float, ...]
"""When the learning rate jumps back: never, at each pruning, every so many epochs, or at these epochs."""

S = TypeVar("S")

PACKAGED = files("bertsurgeon.gradual") / "recipes"
SUFFIX = ".yaml"


@dataclass(frozen=True)
class Pruning:
    """When how much is pruned, and how. Times are in epochs.

    Attributes:
        sparsity: Share of the encoder's weights that is zero in the end.
        first_sparsity: Share after the first pruning; from there it follows a cubic.
        start: Of the first pruning.
        end: Of the last one.
        every: Between two of them.
        pattern: What goes together, see :class:`bertsurgeon.second_order.Pattern`.
        update: Of the weights that are left, see :class:`bertsurgeon.second_order.StepOptions`.
        block_size: Weights of a Fisher block.
        damping: λ, absolute.
        gradients: m, of each pruning.
        gradient_batch_size: Texts whose mean gradient counts as one.
    """

    sparsity: float
    first_sparsity: float
    start: float
    end: float
    every: float
    pattern: str = "unstructured"
    update: Update = "obert"
    block_size: int = 48
    damping: float = 1e-7
    gradients: int = 1024
    gradient_batch_size: int = 16

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value makes no sense.
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
                f"The pattern {pattern.name} removes a share of {pattern.sparsity:g}; pruning.sparsity must be that, "
                f"not {self.sparsity:g}."
            )

    @property
    def epochs(self) -> list[float]:
        """When it is pruned, ascending: at the start, every so often, and at the end."""
        between = int((self.end - self.start) / self.every - 1e-9)  # the end is not met twice for want of a last digit
        return [self.start + number * self.every for number in range(between + 1) if self.start < self.end] + [self.end]

    def sparsity_at(self, epoch: float) -> float:
        """s₁ + (s₀ − s₁)(1 − x)³ with x from 0 at the start to 1 at the end (Zhu and Gupta, 2017, arXiv 1710.01878)."""
        x = (epoch - self.start) / (self.end - self.start) if self.end > self.start else 1.0
        return self.sparsity - (self.sparsity - self.first_sparsity) * (1 - x) ** 3

    def step_options(self, memory: int, seed: int) -> StepOptions:
        """How each step prunes, within ``memory`` bytes of Fisher blocks."""
        return StepOptions(
            pattern=Pattern.parse(self.pattern),
            update=self.update,
            block_size=self.block_size,
            damping=self.damping,
            batch_size=self.gradient_batch_size,
            memory=memory,
            seed=seed,
        )


@dataclass(frozen=True)
class LearningRate:
    """A learning rate that falls linearly, and jumps back to its start at each rewind.

    Attributes:
        start: At the beginning and after each rewind.
        end: What it has come to when the next rewind, or the end, is reached.
        rewinds: ``none``, ``pruning`` (at each), a number (every so many epochs), or a list of epochs.
    """

    start: float
    end: float
    rewinds: Rewinds = "none"

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value makes no sense.
        """
        for name in ("start", "end"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OptionError(f"learning_rate.{name} must be greater than 0, not {getattr(self, name):g}.")
        times = (self.rewinds,) if isinstance(self.rewinds, float) else self.rewinds
        if isinstance(times, tuple) and not all(0 < time < float("inf") for time in times):
            raise OptionError("learning_rate.rewinds must be greater than 0: the learning rate begins at its start.")


@dataclass(frozen=True)
class Distillation:
    """How the teacher is listened to, where there is one; see :class:`bertsurgeon.TrainingConfig`."""

    distillation_weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value makes no sense.
        """
        if not 0 <= self.distillation_weight <= 1:
            raise OptionError(
                f"distillation.distillation_weight must lie between 0 and 1, not {self.distillation_weight:g}."
            )
        if not 0 < self.temperature < float("inf"):
            raise OptionError(f"distillation.temperature must be greater than 0, not {self.temperature:g}.")


@dataclass(frozen=True)
class MaskedLanguageModeling:
    """What is learnt where there is no task: to guess tokens that are hidden, others in every epoch.

    Attributes:
        probability: Of a token to be hidden. As for BERT (Devlin et al., 2018, arXiv 1810.04805), 80 % of these become
            the mask token, 10 % another token, and 10 % stay.
    """

    probability: float = 0.15

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            OptionError: If the value makes no sense.
        """
        if not 0 < self.probability < 1:
            raise OptionError(f"masked_lm.probability must lie strictly between 0 and 1, not {self.probability:g}.")


@dataclass(frozen=True)
class Quantization:
    """When a model learns to live with INT8 (quantization-aware training). Times are in epochs.

    Attributes:
        start: From when on the weights of the encoder's matrices, their inputs and the embeddings are rounded.
        freeze: From when on the ranges of the inputs stay as they are; None for the end of the training.
    """

    start: float
    freeze: float | None = None

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value makes no sense.
        """
        if not 0 <= self.start < float("inf"):
            raise OptionError(f"quantization.start must be at least 0, not {self.start:g}.")
        if self.freeze is not None and not self.start <= self.freeze < float("inf"):
            raise OptionError(f"quantization.freeze must not come before quantization.start, as {self.freeze:g} does.")


@dataclass(frozen=True)
class Recipe:
    """A whole training.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Texts per step.
        learning_rate: See :class:`LearningRate`.
        distillation: See :class:`Distillation`.
        pruning: See :class:`Pruning`; without it the zeros of a sparse model stay where they are.
        quantization: See :class:`Quantization`; without it nothing is rounded.
        masked_lm: See :class:`MaskedLanguageModeling`; without it a task is learnt.
        weight_decay: AdamW's.
        micro_batch_size: Texts that go through the model together, see :class:`bertsurgeon.TrainingConfig`.
    """

    epochs: float
    batch_size: int
    learning_rate: LearningRate
    distillation: Distillation = Distillation()
    pruning: Pruning | None = None
    quantization: Quantization | None = None
    masked_lm: MaskedLanguageModeling | None = None
    weight_decay: float = 0.0
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Checks what belongs together.

        Raises:
            OptionError: If it makes no sense.
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
                f"{self.pruning.end:g}: what is left has to recover."
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
                f"{quantization.start:g}: what is rounded is what is left."
            )

    def with_pruning(self, **changes: Any) -> "Recipe":
        """The same recipe with other values in its section ``pruning``.

        Args:
            changes: By the names of :class:`Pruning`.

        Raises:
            OptionError: If the recipe prunes nothing, or then contradicts itself.
        """
        if self.pruning is None:
            raise OptionError(f"The recipe prunes nothing; it takes no {', '.join(changes)}.")
        return replace(self, pruning=replace(self.pruning, **changes))

    def scaled(self, epochs: float) -> "Recipe":
        """The same recipe in another time: every number of epochs in it is stretched or shortened alike.

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


def packaged_recipes() -> list[str]:
    """The names of the recipes that come with the library."""
    return sorted(file.name.removesuffix(SUFFIX) for file in PACKAGED.iterdir() if file.name.endswith(SUFFIX))


def load_recipe(name: str | Path) -> Recipe:
    """Reads a recipe, packaged or the user's own.

    Args:
        name: Of a packaged recipe, or a YAML file.

    Raises:
        OptionError: Naming file and key, if there is no such recipe, or it is not what a recipe must be.
    """
    packaged = packaged_recipes()
    file = PACKAGED / f"{name}{SUFFIX}" if str(name) in packaged else Path(name)
    if not file.is_file():
        raise OptionError(f"There is no recipe {name}; name a YAML file, or one of {', '.join(packaged)}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise OptionError(f"{name} cannot be read as YAML: {problem}.") from error
    try:
        return _read_section(Recipe, content, "")
    except OptionError as error:
        raise OptionError(f"The recipe {name} is not valid: {error}") from error


def _read_section(kind: type[S], content: object, where: str) -> S:
    """A dataclass from a mapping; ``where`` is the section's name with a dot, empty for the whole."""
    assert is_dataclass(kind)
    allowed = ", ".join(field.name for field in fields(kind))
    place = f"The section {where[:-1]}" if where else "It"
    if not isinstance(content, dict):
        raise OptionError(f"{place} must hold keys with values, of {allowed}, not {content!r}.")
    hints = get_type_hints(kind)
    for key in content:
        if key not in hints:
            raise OptionError(f"There is no key {where}{key}; allowed are {allowed}.")
    for field in fields(kind):
        if field.default is MISSING and field.name not in content:
            raise OptionError(f"The key {where}{field.name} is missing.")
    return kind(**{key: _read_value(hints[key], value, f"{where}{key}") for key, value in content.items()})


def _read_value(hint: Any, value: object, key: str) -> Any:
    """One value of the type its key asks for."""
    if hint == Rewinds:
        return _read_rewinds(value, key)
    if get_origin(hint) in (types.UnionType, Union):  # a section or a value that may be left out
        hint = get_args(hint)[0]
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _read_section(hint, value, f"{key}.")
    if hint is float:
        return _read_number(value, key)
    if hint is int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise OptionError(f"{key} must be a whole number, not {value!r}.")
    elif not isinstance(value, str) or (hint is not str and value not in get_args(hint)):
        choices = "" if hint is str else f", one of {', '.join(get_args(hint))}"
        raise OptionError(f"{key} must be a word{choices}, not {value!r}.")
    return value


def _read_rewinds(value: object, key: str) -> Rewinds:
    if value == "none" or value == "pruning":
        return value
    if isinstance(value, list):
        return tuple(_read_number(time, key) for time in value)
    try:
        return _read_number(value, key)
    except OptionError:
        raise OptionError(
            f"{key} must be none, pruning, a number of epochs between rewinds, or a list of epochs, not {value!r}."
        ) from None


def _read_number(value: object, key: str) -> float:
    """A number; YAML takes 1e-7, without a point, for a text."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise OptionError(f"{key} must be a number, not {value!r}.")
