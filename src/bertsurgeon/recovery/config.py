"""Training options."""

import math
from dataclasses import dataclass

from bertsurgeon.errors import OptionError
from bertsurgeon.options import documented, option

LABEL_LEARNING_RATE = 5e-5
"""Default learning rate of a training by labels alone."""


def total_steps(epochs: float, steps_per_epoch: int) -> int:
    """Returns the number of steps of a training; a fraction of an epoch is rounded up to whole steps."""
    return math.ceil(epochs * steps_per_epoch)


@documented
@dataclass(frozen=True)
class TrainingConfig:
    """Training options.

    Whatever is not named here is passed to :class:`transformers.TrainingArguments` by the argument ``arguments`` of
    :func:`bertsurgeon.train`.
    """

    epochs: float = option(
        3.0, "Passes over the training data; less than 1 trains on a random part of the data of that size."
    )
    batch_size: int = option(32, "Samples per training step, over all processes.")
    micro_batch_size: int | None = option(
        None,
        "Samples per forward pass in each process; gradients are accumulated over a step. Must divide the batch size. "
        "Default: the whole step.",
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate of AdamW, which then falls linearly to 0. Default: 5e-5; with a teacher from 2e-5, if the "
        "model agrees with it on 97 % of the training texts or more, to 1e-4, at 90 % or less; 2e-4 for embedders.",
    )
    warmup: float = option(0.06, "Share of the steps in which the learning rate rises.", cli=False)
    weight_decay: float = option(0.01, "Weight decay of AdamW.", cli=False)
    distillation_weight: float = option(
        0.9,
        "Weight of the teacher's outputs in the loss, 0 (labels only) to 1 (teacher only); ignored without a teacher.",
    )
    temperature: float = option(2.0, "Temperature of the distillation.")
    hidden_weight: float = option(
        0.0, "Weight of the distance from the teacher's hidden states in the loss; ignored without a teacher."
    )
    keep_best: bool = option(
        False,
        "Evaluate before training and four times an epoch, and keep the weights that are best on validation texts: by "
        "the primary metric of the task, or without labels by the agreement with the teacher. Commands take half of "
        "the validation data for it, and report the metrics of the other half.",
    )
    bf16: bool = option(
        False,
        "Multiply in bfloat16 (autocast) and keep the weights in float32; halves the time on processors with bfloat16 "
        "instructions.",
    )
    max_steps: int = option(-1, "Steps after which training ends even if epochs remain; -1 for no limit.", cli=False)
    dropout: bool | None = option(
        None,
        "Whether dropout is active in training. Default: only without a teacher, as dropout harms a pruned model that "
        "starts well and a teacher's outputs are hard to overfit.",
        flag="--dropout/--no-dropout",
    )
    seed: int = option(0, "Random seed: fixes the order of the data and the dropout.")

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value is out of range.
        """
        if not 0 < self.epochs < float("inf") or self.batch_size < 1:
            raise OptionError(
                f"Training needs a number of epochs greater than 0 and a batch size of at least 1, not {self.epochs} "
                f"and {self.batch_size}."
            )
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise OptionError(
                f"micro_batch_size must divide batch_size, {self.batch_size}, which {self.micro_batch_size} does not."
            )
        rate = LABEL_LEARNING_RATE if self.learning_rate is None else self.learning_rate
        if not (0 < rate < float("inf") and 0 < self.temperature < float("inf")):
            raise OptionError(
                "The learning rate and the temperature must be finite and greater than 0, not "
                f"{rate} and {self.temperature}."
            )
        if not (0 <= self.warmup < 1 and 0 <= self.weight_decay < float("inf")):
            raise OptionError(
                f"warmup must be at least 0 and less than 1, not {self.warmup}, and weight_decay must be finite and at "
                f"least 0, not {self.weight_decay}."
            )
        if not 0 <= self.distillation_weight <= 1:
            raise OptionError(f"distillation_weight must lie between 0 and 1, not {self.distillation_weight}.")
        if not 0 <= self.hidden_weight < float("inf"):
            raise OptionError(f"hidden_weight must be finite and at least 0, not {self.hidden_weight}.")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"The seed must lie between 0 and 2**32 - 1, not {self.seed}.")

    @property
    def uses_teacher(self) -> bool:
        """True if any distillation weight is non-zero."""
        return self.distillation_weight > 0 or self.hidden_weight > 0

    def steps(self, steps_per_epoch: int) -> int:
        """Returns the number of steps of the whole training."""
        total = total_steps(self.epochs, steps_per_epoch)
        return min(total, self.max_steps) if self.max_steps > 0 else total
