"""How long a pruned candidate is trained: as long as the rest of the search time allows, decided once and kept."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from bertsurgeon.calibration import make_batches
from bertsurgeon.compression.work_folder import key_of
from bertsurgeon.recovery import TrainingConfig

if TYPE_CHECKING:
    from bertsurgeon.compression.candidates import CandidateMaker

EPOCHS = 3.0
"""Most epochs of a recovery."""

MIN_STEPS = 60
"""Steps below which a recovery is not worth its time."""

BACKWARD = 2.2
"""Time of a training step divided by that of its forward pass in evaluation mode, without the forward pass itself."""

_TIMED_TEXTS = 96


def plan_recovery(maker: CandidateMaker, seconds: float) -> TrainingConfig | None:
    """Returns the options of a recovery that takes at most some time; None if that is too short.

    Args:
        maker: The maker of the candidates.
        seconds: Time for one recovery.
    """
    config = _with_label_weight(maker, TrainingConfig(seed=maker.config.seed, bf16=has_bf16()))
    rows = len(maker.inputs.training)
    key = key_of("recovery", maker.inputs.fingerprint, maker.inputs.training_digest, config)
    per_step = maker.work.value(key, lambda: _seconds_per_step(maker, config))
    # the teacher runs once over all texts that are used; the student forward and backward in every step
    affordable = int(seconds / (per_step * (1 + BACKWARD) + per_step))
    steps_per_epoch = -(-rows // config.batch_size)
    steps = min(affordable, int(EPOCHS * steps_per_epoch))
    if steps < min(MIN_STEPS, steps_per_epoch):
        return None
    epochs = round(steps / steps_per_epoch, 1 if steps > steps_per_epoch else 4)
    return replace(config, epochs=max(epochs, 1 / steps_per_epoch))


def _with_label_weight(maker: CandidateMaker, config: TrainingConfig) -> TrainingConfig:
    """Returns the options with which, without labels, the teacher's outputs alone are learned."""
    task = maker.inputs.task
    is_labeled = task is not None and task.type.learns_from_labels
    return config if is_labeled else replace(config, distillation_weight=1.0)


def _seconds_per_step(maker: CandidateMaker, config: TrainingConfig) -> float:
    """Returns the time of one forward pass of the dense model on a training batch."""
    batches = make_batches(maker.inputs.training, maker.tokenizer, _TIMED_TEXTS, config.batch_size, config.seed)
    names = [name for name in maker.tokenizer.model_input_names if name in batches[0]]
    model = deepcopy(maker.model).eval()
    start = time.perf_counter()
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
        for batch in batches:
            model(**{name: batch[name].to(model.device) for name in names})
    return (time.perf_counter() - start) / len(batches)


def has_bf16() -> bool:
    """Returns whether products in bfloat16 are fast on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
