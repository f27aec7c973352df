"""The ranges that a model's matrices were trained to read their inputs in, where it was trained for INT8.

They stand in the configuration, so that they go with the model wherever it is saved and loaded; others ignore them.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.errors import CheckpointError
from bertsurgeon.plan import Role

ENTRY = "int8_input_ranges"
"""Name of the entry in ``config.json``."""


@dataclass(frozen=True)
class InputRange:
    """How the inputs of a matrix become unsigned bytes: x is rounded to (q − zero_point) · scale, q from 0 to 255."""

    scale: float
    zero_point: int


InputRanges = dict[tuple[int, Role], InputRange]
"""By (layer, role)."""


def set_ranges(model: PreTrainedModel, ranges: InputRanges) -> None:
    """Writes the ranges of all matrices into a model's configuration."""
    layers: list[dict[str, Any]] = []
    for (layer, role), found in sorted(ranges.items()):
        if layer == len(layers):
            layers.append({})
        layers[layer][role] = [found.scale, found.zero_point]
    setattr(model.config, ENTRY, layers)


def get_ranges(model: PreTrainedModel) -> InputRanges | None:
    """The ranges a model was trained with, or None.

    Raises:
        CheckpointError: If the entry is damaged.
    """
    layers = getattr(model.config, ENTRY, None)
    if layers is None:
        return None
    encoder = Encoder(model)
    count = len(encoder.layers)
    try:
        ranges = {
            (index, role): InputRange(float(layer[role][0]), int(layer[role][1]))
            for index, layer in enumerate(layers)
            for role in encoder.roles
        }
        if len(layers) != count or not all(
            0 < r.scale < float("inf") and 0 <= r.zero_point < 256 for r in ranges.values()
        ):
            raise ValueError("numbers out of range")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"config.json is damaged: its entry {ENTRY} cannot be read.") from error
    return ranges


def clear_int8_ranges(model: PreTrainedModel) -> None:
    """Takes the ranges from a model whose weights are about to change."""
    if hasattr(model.config, ENTRY):
        delattr(model.config, ENTRY)
