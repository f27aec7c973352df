"""Ranges of the inputs of matrices, for models that were trained for INT8.

They stand in the model's configuration, so that they are saved and loaded with it; other libraries ignore them.
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
    """How the inputs x of a matrix become bytes q from 0 to 255: q = round(x / scale) + zero_point.

    Attributes:
        scale: Step between two bytes.
        zero_point: The byte of zero.
    """

    scale: float
    zero_point: int


InputRanges = dict[tuple[int, Role], InputRange]
"""Ranges by (layer, role)."""


def set_ranges(model: PreTrainedModel, ranges: InputRanges) -> None:
    """Writes the ranges of all matrices into a model's configuration."""
    layers: list[dict[str, Any]] = []
    for (layer, role), input_range in sorted(ranges.items()):
        if layer == len(layers):
            layers.append({})
        layers[layer][role] = [input_range.scale, input_range.zero_point]
    setattr(model.config, ENTRY, layers)


def get_ranges(model: PreTrainedModel) -> InputRanges | None:
    """Returns the ranges that a model was trained with, or None.

    Raises:
        CheckpointError: If the entry in the configuration is damaged.
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
        raise CheckpointError(
            f"config.json is damaged: its entry {ENTRY} cannot be read; copy the model again."
        ) from error
    return ranges


def clear_int8_ranges(model: PreTrainedModel) -> None:
    """Removes the ranges from a model whose weights are about to change."""
    if hasattr(model.config, ENTRY):
        delattr(model.config, ENTRY)
