"""What a run that is resumed takes from its last checkpoint."""

import json
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from bertsurgeon.errors import CheckpointError
from bertsurgeon.recovery.config import TrainingConfig


def last_checkpoint(work_dir: Path) -> str | None:
    """Returns the last complete checkpoint, if any; incomplete ones, whose writing was killed, are removed."""
    if not work_dir.is_dir():
        return None
    while (checkpoint := get_last_checkpoint(str(work_dir))) is not None:
        try:
            TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))  # the Trainer writes it last
        except (OSError, ValueError, TypeError):
            shutil.rmtree(checkpoint)
        else:
            return str(checkpoint)
    return None


def peak_rate(checkpoint: Path, config: TrainingConfig, steps: int) -> float | None:
    """Returns the peak learning rate of a run that is resumed, which its schedule goes on with; None if it has none.

    Raises:
        CheckpointError: If the options name another rate, or the run has another number of steps.
    """
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.max_steps != steps:
        raise CheckpointError(
            f"The unfinished run in {checkpoint.parent} takes {state.max_steps:,} steps, and these options and data "
            f"take {steps:,}; resume it with the same data, epochs and batch size, or start anew."
        )
    try:
        schedule = torch.load(checkpoint / "scheduler.pt", weights_only=True)
        rate = float(schedule["base_lrs"][0])
    except (OSError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError):
        return None  # the Trainer reports what is missing
    if config.learning_rate not in (None, rate):
        raise CheckpointError(
            f"The unfinished run in {checkpoint.parent} has a learning rate of {rate:g}, not {config.learning_rate:g}; "
            "resume it without naming another one, or start anew."
        )
    return rate


def restore_problem_type(model: PreTrainedModel, checkpoint: Path) -> None:
    """Takes ``problem_type`` from a checkpoint: transformers sets it with the first loss, of which none may be left."""
    with suppress(OSError, ValueError):
        content = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        if isinstance(content, dict) and getattr(model.config, "problem_type", None) is None:
            model.config.problem_type = content.get("problem_type")
