"""The dense parts that an encoder's matrices consist of, and masks of the weights that remain in them.

A linear layer has one part, a grouped layer one for each group, a low rank two, and a dropped matrix none. Weights that
are zero are pruned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.errors import ModelError
from bertsurgeon.layers.dropped import DroppedLinear
from bertsurgeon.layers.grouped import GroupedLinear
from bertsurgeon.layers.low_rank import LowRankLinear
from bertsurgeon.plan import Role

PartKey = tuple[int, Role, int]
"""Layer, role, and the number of the part in that matrix."""

Masks = dict[PartKey, Tensor]
"""True for weights that remain, shape (out, in), by part."""


def _identity(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Part:
    """One dense matrix inside a layer, with the maps to its inputs and from its outputs.

    Attributes:
        weight: The parameter, or a view of its values, shape (out, in).
        inputs: Maps the layer's inputs, shape (…, layer's in), to those of the part.
        outputs: Maps gradients of the layer's outputs, shape (…, layer's out), to those of the part's outputs.
    """

    weight: Tensor
    inputs: Callable[[Tensor], Tensor] = _identity
    outputs: Callable[[Tensor], Tensor] = _identity


def dense_parts(module: nn.Module) -> list[Part]:
    """Returns the dense parts of one layer.

    Raises:
        ModelError: If the layer is of an unknown type.
    """
    match module:
        case DroppedLinear():
            return []
        case GroupedLinear():
            return [
                Part(block.detach(), lambda x, c=columns: x[..., c], lambda delta, r=rows: delta[..., r])  # type: ignore[misc]
                for block, rows, columns in module.blocks()
            ]
        case LowRankLinear():
            down, up = module.weight, module.up
            return [
                Part(down, outputs=lambda delta: delta @ up.detach().to(delta)),
                Part(up, inputs=lambda x: x @ down.detach().to(x).t()),
            ]
        case nn.Linear():
            return [Part(module.weight)]
    raise ModelError(
        f"The model contains a {type(module).__name__} where a linear layer is expected; load it without quantization "
        "and adapters."
    )


def model_parts(encoder: Encoder) -> dict[PartKey, Part]:
    """Returns the dense parts of all matrices of an encoder, from the input to the output."""
    parts: dict[PartKey, Part] = {}
    for layer in range(len(encoder.layers)):
        for role in encoder.roles:
            matrix = encoder.find_matrix(layer, role)
            if matrix is not None:
                parts |= {(layer, role, number): part for number, part in enumerate(dense_parts(matrix))}
    return parts


def encoder_weights(model: PreTrainedModel) -> dict[PartKey, Tensor]:
    """Returns the weights of all parts of a model's encoder, shape (out, in) each."""
    return {key: part.weight for key, part in model_parts(Encoder(model)).items()}


def masks_of(model: PreTrainedModel) -> Masks:
    """Returns the masks of a model's weights that are not zero."""
    return {key: weight.detach() != 0 for key, weight in encoder_weights(model).items()}


@torch.no_grad()
def enforce_masks(model: PreTrainedModel, masks: Masks) -> None:
    """Sets pruned weights to zero, in place."""
    for key, weight in encoder_weights(model).items():
        weight.masked_fill_(~masks[key].to(weight.device), 0)


def sparsity_of(masks: Masks) -> float:
    """Returns the share of the encoder's weights that is removed, 0 to 1."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / sum(mask.numel() for mask in masks.values())


def unit_mask(mask: Tensor, width: int) -> Tensor:
    """Returns which units contain a weight that remains.

    Args:
        mask: Mask of single weights, shape (out, in).
        width: Number of consecutive weights of a row in one unit.

    Returns:
        Shape (out, in / width).
    """
    return mask.reshape(len(mask), -1, width).any(-1)
