"""Importance: one score per weight, the increase of the loss if it is removed.

All scores are the second-order estimate of Optimal Brain Damage / Surgeon (LeCun et al., 1990; Hassibi and Stork, 1993)
with the empirical Fisher information F for the Hessian, as in PGB (arXiv 2502.03984) and oBERT (arXiv 2203.07259).
"""

from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import MatrixKey, Statistics, join_rows, split_rows
from bertsurgeon.calibration.inverse_fisher import CHUNK_ENTRIES, invert_blocks, unit_scores

Importance = Literal["fisher", "obs", "magnitude"]


def fisher_scores(weight: Tensor, squared_gradients: Tensor) -> Tensor:
    """Returns ½ w² F_ii: the increase of the loss if only this weight is zeroed, F diagonal. All shapes (out, in)."""
    return 0.5 * weight.square() * squared_gradients


def obs_scores(weight: Tensor, block_fisher: Tensor, damping: float) -> Tensor:
    """Returns w² / (2 [F⁻¹]_ii): the increase of the loss if this weight is zeroed and its block updated optimally.

    Args:
        weight: Shape (out, in).
        block_fisher: Mean of g gᵀ for blocks of consecutive weights of a row, shape (blocks, block, block).
        damping: λ in F + λI, relative to the mean of F's diagonal over the matrix.

    Raises:
        ModelError: If the damped Fisher information cannot be inverted.
    """
    rows, columns = weight.shape
    block = block_fisher.shape[-1]
    mean_diagonal = block_fisher.diagonal(dim1=1, dim2=2).sum() / weight.numel()  # padding has no Fisher information
    shift = damping * mean_diagonal.clamp_min(torch.finfo(torch.float32).tiny)
    scores = torch.empty(len(block_fisher), block, device=weight.device)
    blocks = split_rows(weight, block)
    step = max(1, CHUNK_ENTRIES // block**2)
    for start in range(0, len(block_fisher), step):
        fisher = block_fisher[start : start + step].double()
        fisher.diagonal(dim1=1, dim2=2).add_(shift)
        inverse = invert_blocks(fisher)
        scores[start : start + step] = unit_scores(inverse, blocks[start : start + step].double(), 1).float()
    return join_rows(scores, rows, columns)


def score_matrices(
    model: PreTrainedModel,
    statistics: Statistics,
    importance: Importance,
    damping: float,
) -> dict[MatrixKey, Tensor]:
    """Scores every weight of the encoder's matrices.

    Args:
        model: The dense model.
        statistics: Must contain squared gradients for ``fisher``, Fisher blocks for ``obs``; unused for ``magnitude``.
        importance: ``fisher`` (½w²F), ``obs`` (w²/(2[F⁻¹]_ii)) or ``magnitude`` (w²).
        damping: λ for ``obs``, see :func:`obs_scores`.

    Returns:
        Non-negative scores by (layer, role), shape (out, in).
    """
    scores: dict[MatrixKey, Tensor] = {}
    encoder = Encoder(model)
    for layer in range(len(encoder.layers)):
        for role in encoder.roles:
            weight = encoder.weight(layer, role).float()
            key = (layer, role)
            if importance == "fisher":
                scores[key] = fisher_scores(weight, statistics.squared_gradients[key])
            elif importance == "obs":
                scores[key] = obs_scores(weight, statistics.block_fisher[key], damping)
            else:
                scores[key] = weight.square()
            scores[key] = scores[key].cpu()
    return scores
