"""DRONE: Chen et al., 2021, Data-aware Low-rank Compression for Large NLP Models (NeurIPS 2021).

Every matrix W becomes two factors of a rank, which minimize ‖WX − UVX‖ over its inputs X in the dense model: the
truncated singular value decomposition of W C^½, times C^−½, with C = XXᵀ (their theorem 1). All matrices keep the same
share of their weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.calibration import Batch, collect_statistics
from peers.units import copy_encoder


@torch.no_grad()
def prune_by_data_aware_rank(
    model: PreTrainedModel, share: float, batches: Sequence[Batch]
) -> tuple[PreTrainedModel, float]:
    """Factorizes every matrix.

    Args:
        model: The dense model; not changed.
        share: Share of the encoder's weights to keep.
        batches: Calibration texts, without labels.

    Returns:
        The model, whose matrices are products of the factors, and the share of the weights that the factors have.
    """
    pruned, view = copy_encoder(model)
    statistics = collect_statistics(view.encoder.model, batches, gradients=False, moments=True)
    count = 0
    for (layer, role), moments in statistics.moments.items():
        moment = moments.covariance + torch.outer(moments.mean, moments.mean)
        weight = view.encoder.weight(layer, role)
        rank = max(1, int(share * weight.numel() / sum(weight.shape)))
        weight.copy_(reduce_rank(weight, rank, moment))
        count += rank * sum(weight.shape)
    return pruned, count / view.total()


def reduce_rank(weight: Tensor, rank: int, moment: Tensor) -> Tensor:
    """Returns the matrix of a rank that is nearest to W on inputs with this second moment.

    Args:
        weight: W, shape (out, in).
        rank: Rank of the result.
        moment: C, the mean of xxᵀ over all tokens, shape (in, in).
    """
    values, vectors = torch.linalg.eigh(moment)
    roots = values.clamp_min(0).sqrt()
    is_used = roots > 1e-7 * roots[-1]
    vectors, roots = vectors[:, is_used], roots[is_used]
    outputs, singular, inputs = torch.linalg.svd(weight.double() @ (vectors * roots), full_matrices=False)
    reduced: Tensor = (outputs[:, :rank] * singular[:rank]) @ inputs[:rank]
    product: Tensor = reduced @ (vectors / roots).T
    return product.to(weight)
