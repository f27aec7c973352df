"""Structures that the library does not have, as dense weights that compute the same function.

Each takes weights W, the covariance C of their inputs and the metric M of their outputs' errors, and returns weights
of the dense shapes, so that the structure's effect on a model is measured without layers of this structure.
"""

import torch
from torch import Tensor

from bertsurgeon.compensation import apply_metric, sqrt_metric
from bertsurgeon.plan import Role

LBFGS_STEPS = 150


def relative_error(weight: Tensor, new: Tensor, covariance: Tensor, metric: Tensor) -> float:
    """Returns tr(M Δ C Δᵀ) / tr(M W C Wᵀ)."""
    root = sqrt_metric(metric)[0]
    lost, whole = apply_metric(root, weight - new), apply_metric(root, weight)
    return float((lost @ covariance * lost).sum() / (whole @ covariance * whole).sum())


def shared_factor(
    weights: list[Tensor], covariance: Tensor, metrics: list[Tensor], rank: int
) -> tuple[list[Tensor], Tensor]:
    """Gives matrices with the same input one bottleneck: the reduced-rank regression of the stacked matrices.

    Returns:
        The weights at this rank, and the error of every rank, shape (full rank + 1,).
    """
    factor = sqrt_metric(covariance, 1e-6)[0]
    roots = [sqrt_metric(metric) for metric in metrics]
    stacked = torch.cat([apply_metric(root, weight) @ factor for weight, (root, _) in zip(weights, roots, strict=True)])
    values, vectors = torch.linalg.eigh(stacked.T @ stacked)
    top = vectors[:, len(vectors) - rank :]
    inverse = torch.linalg.inv(factor)
    new = [weight @ factor @ top @ top.T @ inverse for weight in weights]
    errors = torch.cat([values.clamp_min(0).cumsum(0).flip(0), values.new_zeros(1)])
    return new, errors


def fewer_dimensions(
    weights: dict[Role, Tensor],
    query_bias: Tensor,
    mean: Tensor,
    inputs: Tensor,
    contexts: Tensor,
    metrics: dict[Role, Tensor],
    width: int,
    kept: int,
) -> tuple[dict[Role, Tensor], Tensor, list[int], list[int]]:
    """Reduces the dimensions of heads: per head the products W_QᵀW_K and W_O W_V get a lower rank.

    Products are truncated in the data's metric. The weight of a query's error is the sensitivity of the loss to it,
    divided by the variance of the keys, which is the sensitivity to the attention scores. Then the output matrix is
    refitted to the dense output on the remaining dimensions of the contexts.

    Args:
        weights: Weights of ``query``, ``key``, ``value`` and ``attention_output``.
        query_bias: Bias of the query; that of the key adds a constant to all scores of a query and is dropped.
        mean: Mean of the inputs.
        inputs: Covariance of the inputs.
        contexts: Covariance of the contexts.
        metrics: Metric of each matrix.
        width: Dimensions per head.
        kept: Dimensions that are kept in all heads, those of queries and keys and those of values counted once each.

    Returns:
        New weights, new bias of the query, kept dimensions per head of queries and keys, and of values.
    """
    factor = sqrt_metric(inputs, 1e-6)[0]
    inverse = torch.linalg.inv(factor)
    root = sqrt_metric(metrics["attention_output"])[0]
    heads = len(query_bias) // width
    scores, outputs = [], []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        query, key = weights["query"][rows] @ factor, weights["key"][rows] @ factor
        shifted = torch.cat([query, (weights["query"][rows] @ mean + query_bias[rows]).unsqueeze(1)], 1)
        query_qr, key_qr = torch.linalg.qr(shifted.T), torch.linalg.qr(key.T)
        U, S, Vh = torch.linalg.svd(query_qr.R @ key_qr.R.T)
        sensitivity = float(metrics["query"][rows, rows].trace() / key.square().sum())
        scores.append((S.square() * sensitivity, query_qr.Q @ U * S.sqrt(), key_qr.Q @ Vh.T * S.sqrt()))
        block = sqrt_metric(contexts[rows, rows], 1e-6)[0]
        reads = apply_metric(root, weights["attention_output"][:, rows]) @ block
        _, values, directions = torch.linalg.svd(reads, full_matrices=False)
        outputs.append((values.square(), directions @ torch.linalg.inv(block)))
    all_values = torch.cat([part[0] for part in (*scores, *outputs)])
    threshold = all_values.sort(descending=True).values[kept - 1]
    new = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    bias = torch.zeros_like(query_bias)
    query_dims, value_dims, projections = [], [], []
    for head, ((pairs, queries, keys), (values, directions)) in enumerate(zip(scores, outputs, strict=True)):
        start = head * width
        count = int((pairs >= threshold).sum())
        stays = slice(start, start + count)
        new["query"][stays] = queries[:-1, :count].T @ inverse
        bias[stays] = queries[-1, :count] - new["query"][stays] @ mean
        new["key"][stays] = keys[:, :count].T @ inverse
        query_dims.append(count)
        count = int((values >= threshold).sum())
        read = torch.zeros(count, len(contexts), dtype=contexts.dtype)
        read[:, start : start + width] = directions[:count]
        projections.append(read)
        value_dims.append(count)
    new["value"] = weights["value"]
    read = torch.cat(projections)
    kept_contexts = read @ contexts @ read.T
    fitted = torch.linalg.lstsq(kept_contexts, read @ contexts @ weights["attention_output"].T).solution.T
    new["attention_output"] = fitted @ read
    return new, bias, query_dims, value_dims


def shuffled_blocks(weight: Tensor, covariance: Tensor, metric: Tensor, rank: int, blocks: int) -> Tensor:
    """Fits two block-diagonal factors with a fixed shuffle between them (Monarch, Dao et al., 2022, arXiv 2204.00595).

    Every one of ``blocks`` x ``blocks`` parts of the matrix gets rank ``rank // blocks``: as many weights as a low rank
    of ``rank``, but ``blocks`` times the rank. Started from truncated parts, then fitted by L-BFGS.

    Args:
        weight: W, shape (out, in), both multiples of ``blocks``.
        covariance: C, shape (in, in).
        metric: M, shape (out, out) or its diagonal, shape (out,).
        rank: Rank of the low-rank matrix with as many weights, a multiple of ``blocks``.
        blocks: 1 for a low rank.
    """
    root, factor = sqrt_metric(metric)[0], sqrt_metric(covariance, 1e-6)[0]
    out, inside = weight.shape
    inner = rank // blocks
    parts = weight.reshape(blocks, out // blocks, blocks, inside // blocks).transpose(1, 2)
    U, S, Vh = torch.linalg.svd(parts, full_matrices=False)
    half = S[..., :inner].sqrt()
    left = (U[..., :inner] * half.unsqueeze(-2)).contiguous().requires_grad_()
    right = (half.unsqueeze(-1) * Vh[..., :inner, :]).contiguous().requires_grad_()

    def whole() -> Tensor:
        return (left @ right).transpose(1, 2).reshape(out, inside)

    target = apply_metric(root, weight) @ factor
    scale = target.square().sum()
    optimizer = torch.optim.LBFGS([left, right], max_iter=LBFGS_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (apply_metric(root, whole() - weight) @ factor).square().sum() / scale
        loss.backward()
        return loss

    optimizer.step(closure)
    return whole().detach()
