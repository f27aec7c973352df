"""Compensation in closed form: the best weights on a given support."""

from collections.abc import Iterable

import torch
from torch import Tensor

from bertsurgeon.calibration import Moments
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import Dropped, Grouped, LowRank, Structure

JITTERS = (1.0, 10.0, 100.0, 1e4)
"""Factors by which the damping is raised, one after the other, where a covariance is not positive definite."""

METRIC_DAMPING = 1e-2
"""Share of a metric's mean diagonal that is added to its diagonal."""

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""What varies by a smaller share of its mean is a constant that was rounded."""

_NOT_FINITE = "Activations on the calibration data are not finite; check the model's weights."


def compensate(
    weight: Tensor,
    bias: Tensor,
    structure: Structure | Tensor,
    moments: Moments,
    damping: float,
    metric: Tensor | None = None,
    offset: bool = True,
) -> tuple[Tensor, Tensor]:
    """Refits one matrix to the dense pre-activations, on the support its structure allows.

    For group g with rows R and columns C it minimises E‖W[R,:]x + b[R] + d[R] − B x̂_C − b'[R]‖² + λ‖B‖², so

        B = Cov[Wx + d, x̂_C] (Cov[x̂_C, x̂_C] + λI)⁻¹,   b' = b + W E[x] + E[d] − B E[x̂]

    with x the dense model's inputs, x̂ those of the model pruned so far, and d the residual drift, where the moments
    follow it. λ is ``damping`` times the mean variance of x̂. Solved in fp64 by Cholesky factorisation; where that
    fails, λ is raised (see ``JITTERS``). A low rank is the reduced-rank regression: the best B of that rank in the
    same error, weighed by ``metric`` (see :func:`reduce_rank`). With single weights gone, every row has columns of its
    own.

    Args:
        weight: Dense W, shape (out, in).
        bias: Dense b, shape (out,).
        structure: Support of the new weight; a dropped matrix keeps the mean of its target as bias. Or a mask, shape
            (out, in), of single weights that stay.
        moments: Of x, x̂ and d.
        damping: λ relative to the mean variance of x̂.
        metric: Weighs the errors of a low rank: shape (out, out), positive semi-definite, or its diagonal (out,); None
            for the identity.
        offset: Whether the matrix has a bias; else second moments stand for covariances, and b' = b.

    Returns:
        New weight, shape (out, pruned in), zero outside the support, and new bias, shape (out,), in the dtype of
        ``weight``.

    Raises:
        ModelError: If the moments hold values that are not finite.
    """
    dense = weight.detach().double().cpu()
    target_mean, cross = moments.mean, moments.cross_covariance
    if not moments.of_targets:
        target_mean, cross = dense @ target_mean, dense @ cross
    target_mean = bias.detach().double().cpu() + target_mean
    if len(moments.drift_mean):
        target_mean, cross = target_mean + moments.drift_mean, cross + moments.drift_covariance
    covariance = moments.covariance
    if not all(torch.isfinite(part).all() for part in (target_mean, moments.pruned_mean, cross, covariance)):
        raise ModelError(_NOT_FINITE)
    if offset:
        # what is constant the bias makes up for: rounding, divided by rounding, would be any weight
        constant = covariance.diagonal() <= (ROUNDING * moments.pruned_mean).square()
        if constant.any():
            cross = cross.masked_fill(constant, 0.0)
            covariance = covariance.masked_fill(constant | constant.unsqueeze(1), 0.0)
    else:
        cross = cross + torch.outer(target_mean, moments.pruned_mean)
        covariance = covariance + torch.outer(moments.pruned_mean, moments.pruned_mean)
    compensated = torch.zeros_like(cross)
    shift = ridge(covariance, damping)
    if isinstance(structure, Tensor):
        stays = structure.cpu()
        for row, kept in enumerate(stays):
            columns = kept.nonzero().squeeze(1)
            if len(columns):
                system, target = covariance[columns.unsqueeze(1), columns], cross[row, columns, None]
                compensated[row, columns] = solve_damped(system, target, shift)[:, 0]
        # what reads a constant is of no use, but it was to stay
        compensated = torch.where(stays & (compensated == 0), dense, compensated)
    elif isinstance(structure, Grouped):
        for rows, columns in zip(
            map(torch.tensor, structure.row_groups), map(torch.tensor, structure.column_groups), strict=True
        ):
            solution = solve_damped(covariance[columns][:, columns], cross[rows][:, columns].T, shift)
            compensated[rows.unsqueeze(1), columns] = solution.T
    elif not isinstance(structure, Dropped):
        compensated = solve_damped(covariance, cross.T, shift).T
    if isinstance(structure, LowRank):
        compensated = reduce_rank(compensated, structure.rank, covariance, shift, metric)
    new_bias = target_mean - compensated @ moments.pruned_mean if offset else bias
    return compensated.to(weight), new_bias.to(bias)


def reduce_rank(weight: Tensor, rank: int, covariance: Tensor, shift: float, metric: Tensor | None) -> Tensor:
    """The best matrix of a given rank beside a least-squares solution B (reduced-rank regression, Izenman, 1975).

    Minimises tr(M (B − B_r)(C + λI)(B − B_r)ᵀ) with M = ``metric``, by the singular value decomposition of
    M^½ B (C + λI)^½: B_r = M^-½ U_r U_rᵀ M^½ B.

    Args:
        weight: B, shape (out, in), fp64.
        rank: At most min(out, in).
        covariance: C, shape (in, in), fp64.
        shift: λ.
        metric: M, shape (out, out), or its diagonal (out,), fp64; None for the identity.
    """
    if metric is None:
        weighed = weight
    else:
        root, inverse = sqrt_metric(metric)
        weighed = apply_metric(root, weight)
    damped = covariance + shift * torch.eye(len(covariance), dtype=covariance.dtype)
    if len(weighed) <= len(damped):
        _, directions = torch.linalg.eigh(weighed @ damped @ weighed.T)
        top = directions[:, -rank:]
    else:
        factor, _ = sqrt_metric(damped, 0.0)
        top = torch.linalg.svd(weighed @ factor, full_matrices=False).U[:, :rank]
    reduced = top @ (top.T @ weighed)
    return reduced if metric is None else apply_metric(inverse, reduced)


def reduced_errors(second: Tensor, full_rank: int) -> Tensor:
    """What every rank of a matrix costs: tr(M (W − W_r) C (W − W_r)ᵀ) for r = 0 … full rank.

    Args:
        second: M^½ W C Wᵀ M^½, shape (out, out), or C^½ Wᵀ M W C^½, shape (in, in): the singular values squared.
        full_rank: min(out, in).

    Returns:
        Shape (full rank + 1,), falling to zero.
    """
    squares = torch.linalg.eigvalsh(second)[-full_rank:]
    errors = squares.clamp_min(0).cumsum(0).flip(0)
    return torch.cat([errors, errors.new_zeros(1)])


def sqrt_metric(metric: Tensor, damping: float = METRIC_DAMPING) -> tuple[Tensor, Tensor]:
    """M^½ and M^-½ of a positive semi-definite M.

    Args:
        metric: Shape (n, n), or its diagonal (n,); so are the results.
        damping: Share of the mean diagonal that is added to the diagonal, so that no direction is free.
    """
    tiny = torch.finfo(metric.dtype).tiny
    if metric.dim() == 1:
        root = (metric.clamp_min(0) + (damping * metric.mean()).clamp_min(tiny)).sqrt()
        return root, 1 / root
    values, vectors = torch.linalg.eigh(metric)
    root = (values.clamp_min(0) + (damping * metric.diagonal().mean()).clamp_min(tiny)).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def apply_metric(left: Tensor, right: Tensor) -> Tensor:
    """Left · right, where ``left`` may be given by its diagonal."""
    return left.unsqueeze(1) * right if left.dim() == 1 else left @ right


def solve_damped(covariance: Tensor, right_side: Tensor, damping: float) -> Tensor:
    """Solves (covariance + λI) X = right_side for a positive semi-definite covariance.

    Args:
        covariance: Shape (n, n), fp64.
        right_side: Shape (n, k), fp64.
        damping: λ; raised by ``JITTERS`` until the factorisation succeeds.

    Raises:
        ModelError: If it never does.
    """
    return torch.cholesky_solve(right_side, factorise(covariance, [jitter * damping for jitter in JITTERS]))


def ridge(covariance: Tensor, damping: float) -> float:
    """λ: ``damping`` times the mean variance, never quite zero."""
    return float(damping * covariance.diagonal().mean().clamp_min(torch.finfo(covariance.dtype).tiny))


def factorise(matrix: Tensor, shifts: Iterable[float]) -> Tensor:
    """The Cholesky factor of a symmetric matrix, shape (n, n), its diagonal raised by the first shift that suffices.

    Raises:
        ModelError: If none does.
    """
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    for shift in shifts:
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * identity)
        if not failed:
            found: Tensor = factor
            return found
    raise ModelError("The calibration activations are degenerate; use more or other calibration data, or more damping.")
