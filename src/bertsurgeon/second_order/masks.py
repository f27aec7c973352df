"""Masks: which weights of the encoder's matrices are left. Whatever is zero is pruned."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Architecture
from bertsurgeon.calibration import MatrixKey

Masks = dict[MatrixKey, Tensor]
"""By (layer, role): True for weights that are left, shape (out, in)."""


def encoder_weights(model: PreTrainedModel, architecture: Architecture) -> dict[MatrixKey, Tensor]:
    """The weights of the matrices of every layer, by (layer, role), shape (out, in)."""
    return {
        (layer, role): architecture.matrix(model, layer, role).get_parameter("weight")
        for layer in range(len(architecture.layers(model)))
        for role in architecture.roles
    }


def masks_of(model: PreTrainedModel, architecture: Architecture) -> Masks:
    """The masks of a model: its weights that are not zero."""
    return {key: weight.detach() != 0 for key, weight in encoder_weights(model, architecture).items()}


@torch.no_grad()
def enforce_masks(model: PreTrainedModel, architecture: Architecture, masks: Masks) -> None:
    """Sets pruned weights to zero, in place."""
    for key, weight in encoder_weights(model, architecture).items():
        weight.masked_fill_(~masks[key].to(weight.device), 0)


def sparsity_of(masks: Masks) -> float:
    """Share of the encoder's weights that is gone."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / sum(mask.numel() for mask in masks.values())


def unit_mask(mask: Tensor, width: int) -> Tensor:
    """Which units of ``width`` weights hold a weight that is left: shape (out, in) becomes (out, in / width)."""
    return mask.reshape(len(mask), -1, width).any(-1)
