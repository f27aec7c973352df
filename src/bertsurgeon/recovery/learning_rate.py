"""Default learning rate of the recovery: the closer the pruned model still is to its teacher, the lower."""

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.evaluation import compare

GOOD_START, DAMAGED_START = 97.0, 90.0
"""Agreement with the teacher, in percent, from which the lowest and up to which the highest rate is used.

On training texts, which both models know, it is higher than on others: with a quarter of a small encoder kept, 97 and
92 %, with an eighth 94 and 87 %.
"""

GOOD_START_RATE, DAMAGED_START_RATE = 2e-5, 1e-4
"""Learning rates for these agreements."""

MEASURED_TEXTS = 512
"""Largest number of training texts on which the agreement is measured."""


def recovery_rate(agreement: float) -> float:
    """Returns the learning rate for a start, falling log-linearly with the agreement, to two significant digits.

    A high rate destroys more of a good start than training restores; a low one restores too little of a damaged one.

    Args:
        agreement: Share of the teacher's predictions that the start shares, in percent.
    """
    share = (agreement - DAMAGED_START) / (GOOD_START - DAMAGED_START)
    share = min(1.0, max(0.0, share)) if share == share else 0.0  # a correlation with a constant is no number
    return float(f"{DAMAGED_START_RATE * (GOOD_START_RATE / DAMAGED_START_RATE) ** share:.1e}")


def measure_recovery_rate(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    bf16: bool = False,
    seed: int = 0,
) -> float:
    """Chooses the learning rate from the agreement of a pruned model with its teacher, and prints both.

    Args:
        model: The pruned model.
        teacher: The dense model.
        data: Tokenized training data, of which up to ``MEASURED_TEXTS`` random rows are used; labels are ignored.
        tokenizer: Tokenizer of both models.
        bf16: Multiply in bfloat16.
        seed: Fixes which rows.
    """
    rows = data.shuffle(seed=seed).select(range(min(MEASURED_TEXTS, len(data))))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        metric, value = next(iter(compare(teacher, model, rows, tokenizer).items()))
    rate = recovery_rate(value)
    progress.note(
        f"Learning rate {rate:g}, as the {metric.replace('_', ' ')} of model and teacher is {value:.1f} on {len(rows)} "
        "training texts."
    )
    return rate
