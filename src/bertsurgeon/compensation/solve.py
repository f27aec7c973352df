"""Compensation in closed form: the best weights on a given support."""

import torch
from torch import Tensor

from bertsurgeon.calibration import Moments
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import Dense, Dropped, LowRank, Structure

JITTERS = (1.0, 10.0, 100.0, 1e4)
"""Factors by which the damping is raised, one after the other, where a covariance is not positive definite."""


_NOT_FINITE = "Activations on the calibration data are not finite; check the model's weights."


def compensate(
    weight: Tensor, bias: Tensor, structure: Structure, moments: Moments, damping: float
) -> tuple[Tensor, Tensor]:
    """Refits one matrix to the dense pre-activations, on the support its structure allows.

    For group g with rows R and columns C it minimises E‖W[R,:]x + b[R] − B x̂_C − b'[R]‖² + λ‖B‖², so

        B = W[R,:] Cov[x, x̂_C] (Cov[x̂_C, x̂_C] + λI)⁻¹,   b' = b + W E[x] − B E[x̂]

    with x the dense model's inputs and x̂ those of the model pruned so far. λ is ``damping`` times the mean variance
    of x̂. Solved in fp64 by Cholesky factorisation; where that fails, λ is raised (see ``JITTERS``).

    Args:
        weight: Dense W, shape (out, in).
        bias: Dense b, shape (out,).
        structure: Support of the new weight; a dropped matrix keeps the mean of its dense output as bias.
        moments: Of x and x̂.
        damping: λ relative to the mean variance of x̂.

    Returns:
        New weight, shape (out, in), zero outside the support, and new bias, shape (out,), in the dtype of ``weight``.

    Raises:
        ModelError: If the moments hold values that are not finite.
        NotImplementedError: For a low-rank structure, which has no fixed support.
    """
    dense, offset = weight.detach().double().cpu(), bias.detach().double().cpu()
    mean = moments.mean
    if not (torch.isfinite(mean).all() and torch.isfinite(moments.pruned_mean).all()):
        raise ModelError(_NOT_FINITE)
    compensated = torch.zeros_like(dense)
    if isinstance(structure, LowRank):
        raise NotImplementedError("A low-rank structure has no fixed support.")
    if not isinstance(structure, Dropped):
        covariance, cross = moments.covariance, moments.cross_covariance
        if not (torch.isfinite(covariance).all() and torch.isfinite(cross).all()):
            raise ModelError(_NOT_FINITE)
        shift = damping * covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        everything = (tuple(range(dense.shape[0])),), (tuple(range(dense.shape[1])),)
        groups = everything if isinstance(structure, Dense) else (structure.row_groups, structure.column_groups)
        for rows, columns in zip(*(map(torch.tensor, side) for side in groups), strict=True):
            solution = solve_damped(covariance[columns][:, columns], cross[:, columns].T @ dense[rows].T, float(shift))
            compensated[rows.unsqueeze(1), columns] = solution.T
    new_bias = offset + dense @ mean - compensated @ moments.pruned_mean
    return compensated.to(weight), new_bias.to(bias)


def solve_damped(covariance: Tensor, right_side: Tensor, damping: float) -> Tensor:
    """Solves (covariance + λI) X = right_side for a positive semi-definite covariance.

    Args:
        covariance: Shape (n, n), fp64.
        right_side: Shape (n, k), fp64.
        damping: λ; raised by ``JITTERS`` until the factorisation succeeds.

    Raises:
        ModelError: If it never does.
    """
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    for jitter in JITTERS:
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * damping * identity)
        if not failed:
            return torch.cholesky_solve(right_side, factor)
    raise ModelError("The calibration activations are degenerate; use more or other calibration data, or more damping.")
