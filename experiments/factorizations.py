"""Structures that were tried beside those of the library, as dense weights of the same function.

Each takes weights W, the covariance C of their inputs and the metric M of their outputs' errors, and returns weights
of the dense shapes, so that a model can be asked what the structure would do to it without having its layers.
"""

import torch
from torch import Tensor

from bertsurgeon.compensation import matrix_roots, times

LBFGS_STEPS = 150


def relative_error(weight: Tensor, new: Tensor, covariance: Tensor, metric: Tensor) -> float:
    """tr(M Δ C Δᵀ) / tr(M W C Wᵀ)."""
    root = matrix_roots(metric)[0]
    lost, whole = times(root, weight - new), times(root, weight)
    return float((lost @ covariance * lost).sum() / (whole @ covariance * whole).sum())


def shared_factor(
    weights: list[Tensor], covariance: Tensor, metrics: list[Tensor], rank: int
) -> tuple[list[Tensor], Tensor]:
    """Matrices that read the same input through one common bottleneck: the reduced-rank regression of their stack.

    Returns:
        The weights at this rank, and what every rank costs, shape (full rank + 1,).
    """
    factor = matrix_roots(covariance, 1e-6)[0]
    roots = [matrix_roots(metric) for metric in metrics]
    stacked = torch.cat([times(root, weight) @ factor for weight, (root, _) in zip(weights, roots, strict=True)])
    values, vectors = torch.linalg.eigh(stacked.T @ stacked)
    top = vectors[:, len(vectors) - rank :]
    inverse = torch.linalg.inv(factor)
    new = [weight @ factor @ top @ top.T @ inverse for weight in weights]
    errors = torch.cat([values.clamp_min(0).cumsum(0).flip(0), values.new_zeros(1)])
    return new, errors


def fewer_dimensions(
    weights: dict[str, Tensor],
    query_bias: Tensor,
    mean: Tensor,
    inputs: Tensor,
    contexts: Tensor,
    metrics: dict[str, Tensor],
    width: int,
    kept: int,
) -> tuple[dict[str, Tensor], Tensor, list[int], list[int]]:
    """Heads of fewer dimensions: per head the products W_QᵀW_K and W_O W_V at lower rank, no second matrix needed.

    Products are truncated in the data's metric. A query's error weighs what the loss minds of it, divided by the
    keys' variance: that is what the loss minds of the attention scores. What is left of the contexts is fitted to the
    dense output once more.

    Args:
        weights: Of ``query``, ``key``, ``value`` and ``attention_output``.
        query_bias: Of the query; that of the key shifts all scores of a query alike and is dropped.
        mean: Of the inputs.
        inputs: Their covariance.
        contexts: Covariance of the contexts.
        metrics: By matrix.
        width: Dimensions per head.
        kept: Dimensions that stay, of queries (and keys) and of values (and what reads them) together.

    Returns:
        New weights, new bias of the query, dimensions left per head of queries and keys, and of values.
    """
    factor = matrix_roots(inputs, 1e-6)[0]
    inverse = torch.linalg.inv(factor)
    root = matrix_roots(metrics["attention_output"])[0]
    heads = len(query_bias) // width
    scores, outputs = [], []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        query, key = weights["query"][rows] @ factor, weights["key"][rows] @ factor
        shifted = torch.cat([query, (weights["query"][rows] @ mean + query_bias[rows]).unsqueeze(1)], 1)
        left, right = torch.linalg.qr(shifted.T), torch.linalg.qr(key.T)
        U, S, Vh = torch.linalg.svd(left.R @ right.R.T)
        minded = float(metrics["query"][rows, rows].trace() / key.square().sum())
        scores.append((S.square() * minded, left.Q @ U * S.sqrt(), right.Q @ Vh.T * S.sqrt()))
        block = matrix_roots(contexts[rows, rows], 1e-6)[0]
        reads = times(root, weights["attention_output"][:, rows]) @ block
        _, values, directions = torch.linalg.svd(reads, full_matrices=False)
        outputs.append((values.square(), directions @ torch.linalg.inv(block)))
    everything = torch.cat([part[0] for part in (*scores, *outputs)])
    threshold = everything.sort(descending=True).values[kept - 1]
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
    seen = read @ contexts @ read.T
    fitted = torch.linalg.lstsq(seen, read @ contexts @ weights["attention_output"].T).solution.T
    new["attention_output"] = fitted @ read
    return new, bias, query_dims, value_dims


def shuffled_blocks(weight: Tensor, covariance: Tensor, metric: Tensor, rank: int, blocks: int) -> Tensor:
    """Two block-diagonal factors with a fixed shuffle between them (Monarch, Dao et al., 2022, arXiv 2204.00595).

    Every one of ``blocks`` x ``blocks`` parts of the matrix gets rank ``rank // blocks``: as many weights as a low rank
    of ``rank``, but ``blocks`` times the rank. Started from truncated parts, then fitted by L-BFGS.

    Args:
        weight: W, shape (out, in), both multiples of ``blocks``.
        covariance: C.
        metric: M.
        rank: Multiple of ``blocks``.
        blocks: 1 for a low rank.
    """
    root, factor = matrix_roots(metric)[0], matrix_roots(covariance, 1e-6)[0]
    out, inside = weight.shape
    inner = rank // blocks
    parts = weight.reshape(blocks, out // blocks, blocks, inside // blocks).transpose(1, 2)
    U, S, Vh = torch.linalg.svd(parts, full_matrices=False)
    half = S[..., :inner].sqrt()
    left = (U[..., :inner] * half.unsqueeze(-2)).contiguous().requires_grad_()
    right = (half.unsqueeze(-1) * Vh[..., :inner, :]).contiguous().requires_grad_()

    def whole() -> Tensor:
        return (left @ right).transpose(1, 2).reshape(out, inside)

    target = times(root, weight) @ factor
    scale = target.square().sum()
    optimizer = torch.optim.LBFGS([left, right], max_iter=LBFGS_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (times(root, whole() - weight) @ factor).square().sum() / scale
        loss.backward()
        return loss

    optimizer.step(closure)
    return whole().detach()
