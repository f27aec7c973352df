"""What a training can be told."""

import math
from dataclasses import dataclass

from bertsurgeon.errors import OptionError

LEARNING_RATE, DISTILLED_RATE = 5e-5, 2e-5
"""Where none is said: for labels alone, and from a teacher."""


def total_steps(epochs: float, steps_per_epoch: int) -> int:
    """Steps of that many passes over the data, the last of which may be a part of one."""
    return math.ceil(epochs * steps_per_epoch)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training data (3, as the paper's re-finetuning); less than one reads as large a part
            of it, drawn at random.
        batch_size: Samples per step.
        micro_batch_size: Samples that go through the model together, where memory does not hold a whole step; divides
            ``batch_size``. None for all of them. Several processes share a step: each takes that many at a time.
        learning_rate: Peak of AdamW's learning rate, reached after the warm-up, falling linearly to zero. None: 5e-5,
            from a teacher 2e-5, as a higher one harms what started well (``experiments/recovery.py``).
        warmup: Share of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        distillation_weight: Weight of the teacher in the loss, 0 to 1; used only if a teacher is given.
        temperature: Of the distillation.
        hidden_weight: Weight of the teacher's hidden states in the loss; used only if a teacher is given.
        keep_best: Hold out a tenth of the data (at most 1000 samples), and end with the weights that did best on it:
            the start, or those after a quarter of an epoch (or of the training, if that is shorter), half of one, and
            so on.
        bf16: Multiply in bfloat16 (autocast), keep the weights in float32: half the time where the processor has
            bfloat16 instructions.
        max_steps: Ends earlier than ``epochs`` says, where positive.
        dropout: Whether the model's dropouts act. None: only without a teacher. A pruned model that starts well loses
            what dropout takes from it, and a teacher's answers are too rich to be learnt by heart
            (``experiments/recovery.py``).
        seed: Fixes the order of the data and the dropout.
    """

    epochs: float = 3.0
    batch_size: int = 32
    micro_batch_size: int | None = None
    learning_rate: float | None = None
    warmup: float = 0.06
    weight_decay: float = 0.01
    distillation_weight: float = 0.9
    temperature: float = 2.0
    hidden_weight: float = 0.0
    keep_best: bool = False
    bf16: bool = False
    max_steps: int = -1
    dropout: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            OptionError: If a value makes no sense.
        """
        if not 0 < self.epochs < float("inf") or self.batch_size < 1:
            raise OptionError(
                f"Training needs a number of epochs greater than 0 and a batch of at least 1, not {self.epochs} and "
                f"{self.batch_size}."
            )
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise OptionError(
                f"The samples at once must divide the batch size, {self.batch_size}; {self.micro_batch_size} do not."
            )
        rate = self.peak(taught=False)
        if not (0 < rate < float("inf") and 0 < self.temperature < float("inf")):
            raise OptionError(
                "The learning rate and the temperature must be finite and greater than 0, not "
                f"{rate} and {self.temperature}."
            )
        if not (0 <= self.warmup < 1 and 0 <= self.weight_decay < float("inf")):
            raise OptionError("The warm-up must lie between 0 and 1, and the weight decay must not be negative.")
        if not 0 <= self.distillation_weight <= 1:
            raise OptionError(f"distillation_weight must lie between 0 and 1, not {self.distillation_weight}.")
        if not 0 <= self.hidden_weight < float("inf"):
            raise OptionError(f"The weight of the hidden states must be at least 0, not {self.hidden_weight}.")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"The seed must lie between 0 and 2**32 - 1, not {self.seed}.")

    def steps(self, steps_per_epoch: int) -> int:
        """Of the whole training, if nothing interrupts it."""
        total = total_steps(self.epochs, steps_per_epoch)
        return min(total, self.max_steps) if self.max_steps > 0 else total

    @property
    def uses_teacher(self) -> bool:
        """Whether a teacher, if there is one, has a say in the loss."""
        return self.distillation_weight > 0 or self.hidden_weight > 0

    def peak(self, taught: bool) -> float:
        """The learning rate, or what it is where none is said.

        Args:
            taught: Whether there is a teacher.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return DISTILLED_RATE if taught and self.uses_teacher else LEARNING_RATE
