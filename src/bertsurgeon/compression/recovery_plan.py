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
from bertsurgeon.tasks import head_of

if TYPE_CHECKING:
    from bertsurgeon.compression.candidates import CandidateMaker

EPOCHS = 3.0
"""Most epochs of a recovery."""

MIN_STEPS = 60
"""Steps below which a recovery is not worth its time."""

SHARE_OF_TIME = 0.6
"""Share of the remaining time that one recovery may take; the rest is for what is tried after it."""

_TIMED_STEPS = 4


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
    affordable = int(SHARE_OF_TIME * seconds / per_step)
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
    """Times training steps of the dense model: forward, backward, the optimizer, and one forward pass of the teacher.

    (A plain loop: a Trainer would write into a folder, and its own start would be timed.)
    """
    rows = maker.inputs.training
    count = min(len(rows), config.batch_size * _TIMED_STEPS)
    batches = make_batches(rows, maker.tokenizer, count, config.batch_size, config.seed)
    names = [name for name in maker.tokenizer.model_input_names if name in batches[0]]
    model = deepcopy(maker.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    times = []
    for batch in batches:
        inputs = {name: batch[name].to(model.device) for name in names}
        start = time.perf_counter()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
            with torch.no_grad():
                model(**inputs)
            outputs = model(**inputs)
        sum(outputs[name].float().square().mean() for name in head_of(model).outputs).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return max(times[1:], default=times[0])  # the first one allocates the optimizer's state


def has_bf16() -> bool:
    """Returns whether products in bfloat16 are fast on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
