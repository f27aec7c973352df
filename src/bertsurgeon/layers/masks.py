"""Masks: which weights of the encoder's matrices are left. Whatever is zero is pruned."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.layers import PartKey, model_parts

Masks = dict[PartKey, Tensor]
"""By (layer, role, part): True for weights that are left, shape (out, in)."""


def encoder_weights(model: PreTrainedModel) -> dict[PartKey, Tensor]:
    """The weights of the matrices of every layer, by (layer, role, part), shape (out, in).

    A matrix of a dense model is one part; where a plan has changed it, see :func:`bertsurgeon.layers.dense_parts`.
    """
    return {key: part.weight for key, part in model_parts(Encoder(model)).items()}


def masks_of(model: PreTrainedModel) -> Masks:
    """The masks of a model: its weights that are not zero."""
    return {key: weight.detach() != 0 for key, weight in encoder_weights(model).items()}


@torch.no_grad()
def enforce_masks(model: PreTrainedModel, masks: Masks) -> None:
    """Sets pruned weights to zero, in place."""
    for key, weight in encoder_weights(model).items():
        weight.masked_fill_(~masks[key].to(weight.device), 0)


def sparsity_of(masks: Masks) -> float:
    """Share of the encoder's weights that is gone."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / sum(mask.numel() for mask in masks.values())


def unit_mask(mask: Tensor, width: int) -> Tensor:
    """Which units of ``width`` weights hold a weight that is left: shape (out, in) becomes (out, in / width)."""
    return mask.reshape(len(mask), -1, width).any(-1)
