"""Compensation in closed form: the least-squares weights on a given support."""

from collections.abc import Iterable

import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F

from bertsurgeon.calibration import Moments
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import Dropped, Grouped, LowRank, Structure

JITTERS = (1.0, 10.0, 100.0, 1e4)
"""Factors by which the damping is raised, one after the other, if a covariance is not positive definite."""

METRIC_DAMPING = 1e-2
"""Share of a metric's mean diagonal that is added to its diagonal."""

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""A channel whose standard deviation is a smaller share of its mean is treated as a constant with rounding errors."""

_NOT_FINITE = "The activations on the calibration data are not finite; check the model's weights."


def compensate(
    weight: Tensor,
    bias: Tensor,
    structure: Structure | Tensor,
    moments: Moments,
    damping: float,
    metric: Tensor | None = None,
    offset: bool = True,
) -> tuple[Tensor, Tensor]:
    """Refits one matrix to the dense pre-activations, on the support that its structure allows.

    For group g with rows R and columns C it minimizes E‖W[R,:]x + b[R] + d[R] − B x̂_C − b'[R]‖² + λ‖B‖², so

        B = Cov[Wx + d, x̂_C] (Cov[x̂_C, x̂_C] + λI)⁻¹,   b' = b + W E[x] + E[d] − B E[x̂]

    with x the dense model's inputs, x̂ those of the model pruned so far, and d the residual drift if the moments
    track it, else 0. λ is ``damping`` times the mean variance of x̂. The system is solved in fp64 by Cholesky
    factorization; if that fails, λ is raised (see ``JITTERS``). A low rank is a reduced-rank regression: the best B of
    that rank in the same error, weighted by ``metric`` (see :func:`reduce_rank`). With a mask, every row is a
    regression on its own columns.

    Args:
        weight: Dense W, shape (out, in).
        bias: Dense b, shape (out,).
        structure: Support of the new weight, or a mask of single weights that remain, shape (out, in). A dropped matrix
            keeps the mean of its target as bias.
        moments: Moments of x, x̂ and d.
        damping: λ relative to the mean variance of x̂.
        metric: Weights of the errors of a low rank: shape (out, out), positive semi-definite, or its diagonal (out,);
            None for the identity.
        offset: True if the matrix has a bias; without one second moments replace covariances, and b' = b.

    Returns:
        New weight, shape (out, pruned in), zero outside the support, and new bias, shape (out,), in the dtype of
        ``weight``.

    Raises:
        ModelError: If the moments contain values that are not finite.
    """
    dense = weight.detach().to(moments.mean)
    target_mean, cross = moments.mean, moments.cross_covariance
    if not moments.of_targets:
        target_mean, cross = dense @ target_mean, dense @ cross
    target_mean = bias.detach().to(target_mean) + target_mean
    if len(moments.drift_mean):
        target_mean, cross = target_mean + moments.drift_mean, cross + moments.drift_covariance
    covariance = moments.covariance
    if not all(torch.isfinite(moment).all() for moment in (target_mean, moments.pruned_mean, cross, covariance)):
        raise ModelError(_NOT_FINITE)
    if offset:
        # the bias reproduces constant inputs: a weight on them would be a quotient of rounding errors
        constant = covariance.diagonal() <= (ROUNDING * moments.pruned_mean).square()
        if constant.any():
            cross = cross.masked_fill(constant, 0.0)
            covariance = covariance.masked_fill(constant | constant.unsqueeze(1), 0.0)
    else:
        cross = cross + torch.outer(target_mean, moments.pruned_mean)
        covariance = covariance + torch.outer(moments.pruned_mean, moments.pruned_mean)
    compensated = torch.zeros_like(cross)
    ridge_term = ridge(covariance, damping)
    if isinstance(structure, Tensor):
        mask = structure.to(cross.device)
        for row, kept in enumerate(mask):
            columns = kept.nonzero().squeeze(1)
            if len(columns):
                system, target = covariance[columns.unsqueeze(1), columns], cross[row, columns, None]
                compensated[row, columns] = solve_damped(system, target, ridge_term)[:, 0]
        # keep the dense weight on constant inputs: the mask keeps it and the solver cannot identify it
        compensated = torch.where(mask & (compensated == 0), dense, compensated)
    elif isinstance(structure, Grouped):
        for group_rows, group_columns in zip(structure.row_groups, structure.column_groups, strict=True):
            rows, columns = (torch.tensor(channels, device=cross.device) for channels in (group_rows, group_columns))
            solution = solve_damped(covariance[columns][:, columns], cross[rows][:, columns].T, ridge_term)
            compensated[rows.unsqueeze(1), columns] = solution.T
    elif not isinstance(structure, Dropped):
        compensated = solve_damped(covariance, cross.T, ridge_term).T
    if isinstance(structure, LowRank):
        compensated = reduce_rank(compensated, structure.rank, covariance, ridge_term, metric)
    new_bias = target_mean - compensated @ moments.pruned_mean if offset else bias
    return compensated.to(weight), new_bias.to(bias)


def reduce_rank(weight: Tensor, rank: int, covariance: Tensor, ridge_term: float, metric: Tensor | None) -> Tensor:
    """Computes the best matrix of a rank from a least-squares solution B (reduced-rank regression, Izenman, 1975).

    Minimizes tr(M (B − B_r)(C + λI)(B − B_r)ᵀ) with M = ``metric``, by the singular value decomposition of
    M^½ B (C + λI)^½: B_r = M^-½ U_r U_rᵀ M^½ B.

    Args:
        weight: B, shape (out, in), fp64.
        rank: At most min(out, in).
        covariance: C, shape (in, in), fp64.
        ridge_term: λ.
        metric: M, shape (out, out), or its diagonal (out,), fp64; None for the identity.
    """
    if metric is None:
        weighted = weight
    else:
        root, inverse = sqrt_metric(metric.to(weight))
        weighted = apply_metric(root, weight)
    damped = damp(covariance, ridge_term)
    if len(weighted) <= len(damped):
        _, directions = torch.linalg.eigh(weighted @ damped @ weighted.T)
        top = directions[:, -rank:]
    else:
        factor, _ = sqrt_metric(damped, 0.0)
        top = torch.linalg.svd(weighted @ factor, full_matrices=False).U[:, :rank]
    reduced = top @ (top.T @ weighted)
    return reduced if metric is None else apply_metric(inverse, reduced)


def reduced_errors(seconds: Iterable[tuple[Tensor, int]]) -> list[Tensor]:
    """Computes the errors of matrices at every rank: tr(M (W − W_r) C (W − W_r)ᵀ) for r = 0 … full rank.

    On a CPU one matrix is computed after the other as they come; on a GPU all together, padded to the largest.

    Args:
        seconds: For each matrix M^½ W C Wᵀ M^½, shape (out, out), or C^½ Wᵀ M W C^½, shape (in, in), whose eigenvalues
            are the squared singular values of M^½ W C^½; and its full rank, min(out, in).

    Returns:
        For each matrix shape (full rank + 1,), decreasing to zero, on the CPU.
    """
    errors = []
    waiting: list[tuple[Tensor, int]] = []
    for second, full_rank in seconds:
        if second.device.type == "cpu":
            # LAPACK's evr, which scipy offers, takes half the time of torch's evd
            values = torch.from_numpy(scipy.linalg.eigvalsh(second.numpy(), driver="evr", check_finite=False))
            errors.append(_errors_of_ranks(values, full_rank))
        else:
            waiting.append((second, full_rank))
    if waiting:
        size = max(len(second) for second, _ in waiting)
        padded = [F.pad(second, (0, size - len(second), 0, size - len(second))) for second, _ in waiting]
        spectra = torch.linalg.eigvalsh(torch.stack(padded)).cpu()  # zeros of the padding do not change the sums
        errors += [_errors_of_ranks(values, rank) for values, (_, rank) in zip(spectra, waiting, strict=True)]
    return errors


def _errors_of_ranks(eigenvalues: Tensor, full_rank: int) -> Tensor:
    """Computes the errors of all ranks from ascending eigenvalues."""
    errors = eigenvalues[-full_rank:].clamp_min(0).cumsum(0).flip(0)
    return torch.cat([errors, errors.new_zeros(1)])


def sqrt_metric(metric: Tensor, damping: float = METRIC_DAMPING) -> tuple[Tensor, Tensor]:
    """Computes M^½ and M^-½ of a positive semi-definite M.

    Args:
        metric: Shape (n, n), or its diagonal (n,).
        damping: Share of the mean diagonal that is added to the diagonal, so that the result is invertible.

    Returns:
        Both of the shape of ``metric``.
    """
    tiny = torch.finfo(metric.dtype).tiny
    if metric.dim() == 1:
        root = (metric.clamp_min(0) + (damping * metric.mean()).clamp_min(tiny)).sqrt()
        return root, 1 / root
    values, vectors = torch.linalg.eigh(metric)
    root = (values.clamp_min(0) + (damping * metric.diagonal().mean()).clamp_min(tiny)).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def apply_metric(left: Tensor, right: Tensor) -> Tensor:
    """Computes left · right; ``left`` has shape (n, n), or is a diagonal of shape (n,)."""
    return left.unsqueeze(1) * right if left.dim() == 1 else left @ right


def solve_damped(covariance: Tensor, right_side: Tensor, damping: float) -> Tensor:
    """Solves (covariance + λI) X = right_side for a positive semi-definite covariance.

    Args:
        covariance: Shape (n, n), fp64.
        right_side: Shape (n, k), fp64.
        damping: λ; raised by ``JITTERS`` until the factorization succeeds.

    Raises:
        ModelError: If the factorization fails for all of them.
    """
    return torch.cholesky_solve(right_side, factorize(covariance, [jitter * damping for jitter in JITTERS]))


def ridge(covariance: Tensor, damping: float) -> float:
    """Computes λ: ``damping`` times the mean variance, greater than zero."""
    return float(damping * covariance.diagonal().mean().clamp_min(torch.finfo(covariance.dtype).tiny))


def damp(matrix: Tensor, ridge_term: float) -> Tensor:
    """Returns a copy of a matrix plus a multiple of the identity."""
    damped = matrix.clone()
    damped.diagonal().add_(ridge_term)
    return damped


def factorize(matrix: Tensor, ridges: Iterable[float]) -> Tensor:
    """Computes the Cholesky factor of a symmetric matrix plus the first multiple of the identity that suffices.

    Args:
        matrix: Shape (n, n).
        ridges: Multiples of the identity to try, one after the other.

    Returns:
        The lower factor, shape (n, n).

    Raises:
        ModelError: If the factorization fails for all of them.
    """
    for ridge_term in ridges:
        factor, failed = torch.linalg.cholesky_ex(damp(matrix, ridge_term))
        if not failed:
            lower: Tensor = factor
            return lower
    raise ModelError("The covariance of the calibration data is singular; use more or other texts, or more damping.")
