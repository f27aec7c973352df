"""Number of groups of each matrix: the paper's threshold rule, or the same number for all.

PGB counts the weights with ρ > τ in a matrix of n × m weights and takes G ≈ n·m / count groups, since G diagonal
blocks keep the share 1/G. More than G_max groups: the matrix is dropped. So G ≤ g holds exactly while at least
n·m / (g + ½) scores exceed τ, that is while τ is below one order statistic of the scores. These few order statistics
(*cuts*) determine the counts for every τ.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bertsurgeon.calibration import MatrixKey
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping.sizes import group_sizes
from bertsurgeon.plan import Dense, Dropped, Role, Structure, fold_constants

DROPPED = 0
"""Group count of a matrix that is dropped."""

GroupCounts = dict[MatrixKey, int]
"""Number of groups by matrix; 1 keeps a matrix as it is."""


def kept_weights(shape: tuple[int, int], groups: int) -> int:
    """Number of weights in ``groups`` diagonal blocks of a matrix (all for 1, none for ``DROPPED``)."""
    if groups == DROPPED:
        return 0
    return sum(r * c for r, c in zip(*(group_sizes(size, groups) for size in shape), strict=True))


@dataclass(frozen=True)
class Cuts:
    """Thresholds at which the rule changes its result.

    Attributes:
        keys: Layer and role of each matrix, in the order of the model.
        shapes: Shape (out, in) of each matrix.
        thresholds: Shape (matrices, G_max), ascending along a row: matrix i gets at most g groups (and is not
            dropped) exactly while τ < ``thresholds[i, g - 1]``.
        positional: See :func:`bertsurgeon.plan.fold_constants`.
    """

    keys: list[MatrixKey]
    shapes: list[tuple[int, int]]
    thresholds: NDArray[np.float64]
    positional: bool = False

    @classmethod
    def of(cls, scores: dict[MatrixKey, Tensor], max_groups: int, positional: bool = False) -> "Cuts":
        """Computes the cuts of all matrices.

        Args:
            scores: By (layer, role), shape (out, in).
            max_groups: G_max, the largest number of groups.
            positional: See :func:`bertsurgeon.plan.fold_constants`.

        Raises:
            OptionError: If G_max is not positive or larger than the smallest dimension.
        """
        shapes = [(score.shape[0], score.shape[1]) for score in scores.values()]
        if not 1 <= max_groups <= min(min(shape) for shape in shapes):
            raise OptionError(f"The largest number of groups must be between 1 and a matrix's size, not {max_groups}.")
        rows = []
        for score in scores.values():
            values = score.flatten().numpy()
            # G ≤ g requires this many scores above τ; scores equal to τ do not count
            needed = [int(np.ceil(values.size / (g + 0.5))) for g in range(1, max_groups + 1)]
            ranks = [values.size - count for count in needed]
            rows.append(np.partition(values, ranks)[ranks].astype(np.float64))
        return cls(list(scores), shapes, np.stack(rows), positional)

    def counts(self, threshold: float) -> GroupCounts:
        """Applies the paper's rule at one τ, and drops the matrices that have no effect after that."""
        allowed = threshold < self.thresholds
        counts = np.where(allowed.any(axis=1), allowed.argmax(axis=1) + 1, DROPPED)
        return fold_counts(dict(zip(self.keys, counts.tolist(), strict=True)), self.positional)

    def kept(self, counts: GroupCounts) -> int:
        """Number of weights that are kept with these counts."""
        return sum(kept_weights(shape, counts[key]) for key, shape in zip(self.keys, self.shapes, strict=True))


def fold_counts(counts: GroupCounts, positional: bool = False) -> GroupCounts:
    """Drops the matrices that have no effect because others were dropped (see ``plan.fold_constants``)."""
    folded = dict(counts)
    for layer in {layer for layer, _ in counts}:
        structures: dict[Role, Structure] = {
            role: Dropped() if count == DROPPED else Dense()
            for (index, role), count in counts.items()
            if index == layer
        }
        structures = fold_constants(structures, positional)
        folded.update({(layer, r): DROPPED for r, s in structures.items() if isinstance(s, Dropped)})
    return folded


def counts_by_threshold(
    scores: dict[MatrixKey, Tensor], threshold: float, max_groups: int, positional: bool = False
) -> GroupCounts:
    """Applies the paper's rule: G ≈ n·m / #{ρ > τ} groups, or a dropped matrix if that exceeds G_max.

    Args:
        scores: By (layer, role), shape (out, in).
        threshold: τ.
        max_groups: G_max, the largest number of groups.
        positional: See :func:`bertsurgeon.plan.fold_constants`.

    Raises:
        OptionError: If τ is negative or G_max out of range.
    """
    if threshold < 0:
        raise OptionError(f"The threshold must be at least 0, not {threshold}.")
    return Cuts.of(scores, max_groups, positional).counts(threshold)


def counts_uniform(scores: dict[MatrixKey, Tensor], groups: int) -> GroupCounts:
    """Gives every matrix the same number of groups.

    Raises:
        OptionError: If that number is not positive or larger than the smallest dimension.
    """
    smallest = min(min(score.shape) for score in scores.values())
    if not 1 <= groups <= smallest:
        raise OptionError(f"The number of groups must be between 1 and {smallest}, not {groups}.")
    return dict.fromkeys(scores, groups)
