"""Number of groups of each matrix: the paper's threshold rule, a target sparsity, or the same number for all.

PGB counts the weights with ρ > τ in a matrix of n × m weights and takes G ≈ n·m / count groups, since G diagonal
blocks keep the share 1/G. More than G_max groups: the matrix is dropped. So G ≤ g holds exactly while at least
n·m / (g + ½) scores exceed τ, that is while τ is below one order statistic of the scores. These few order statistics
(*cuts*) determine the counts for every τ.

The threshold does not determine the size of the result. For a target sparsity, τ is bisected over its finitely many
cuts until the next lower one would keep too much; the remaining gap is closed by changing the matrices whose cut is
nearest to τ, one or two of them at a time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bertsurgeon.calibration import MatrixKey
from bertsurgeon.errors import OptionError
from bertsurgeon.grouping import group_sizes
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


Move = tuple[float, int, MatrixKey, int]
"""Change of one matrix: distance of its cut from τ (natural logarithm of the ratio), change of the number of kept
weights, matrix, new group count."""


def counts_by_sparsity(
    scores: dict[MatrixKey, Tensor], sparsity: float, max_groups: int, positional: bool = False
) -> GroupCounts:
    """Finds group counts that remove the share ``sparsity`` of all weights.

    Args:
        scores: By (layer, role), shape (out, in).
        sparsity: Share of the encoder's weights to remove, strictly between 0 and 1.
        max_groups: G_max, the largest number of groups.
        positional: See :func:`bertsurgeon.plan.fold_constants`.

    Returns:
        Counts whose number of kept weights differs from the target by less than the smallest kept block, if moves of at
        most two matrices at a time can get that close. Exceptions were observed only if almost nothing is kept, and in
        encoders of matrices as small as 48 × 48 if almost nothing is removed: a difference of 0.2 % of all weights.

    Raises:
        OptionError: If ``sparsity`` is outside its range or leaves nothing, or G_max is out of range.
    """
    if not 0 < sparsity < 1:
        raise OptionError(f"The sparsity must lie strictly between 0 and 1, not {sparsity:g}: 0.5 removes half.")
    cuts = Cuts.of(scores, max_groups, positional)
    target = round((1 - sparsity) * sum(rows * columns for rows, columns in cuts.shapes))
    taus = np.unique(np.concatenate([[0.0], cuts.thresholds.ravel()]))
    low, high = 0, len(taus) - 1  # fewer weights are kept as τ rises; at the highest cut none
    while low < high:
        middle = (low + high) // 2
        if cuts.kept(cuts.counts(taus[middle])) <= target:
            high = middle
        else:
            low = middle + 1
    best = _close_gap(cuts, cuts.counts(taus[low]), float(taus[low]), target)
    if low > 0 and not (any(best.values()) and _is_met(cuts, best, target)):
        # the cut dropped whole matrices, and the remaining ones are too small to close the gap: start from above
        other = _close_gap(cuts, cuts.counts(taus[low - 1]), float(taus[low - 1]), target)
        best = min(best, other, key=lambda counts: (not any(counts.values()), abs(target - cuts.kept(counts))))
    if not any(best.values()):
        raise OptionError(
            "At that sparsity groups leave nothing of the encoder; ask for a lower sparsity, or use the method auto."
        )
    return best


def _is_met(cuts: Cuts, counts: GroupCounts, target: int) -> bool:
    """True if the target is met to within the smallest block."""
    smallest = min((_block(cuts, key, groups) for key, groups in counts.items()), default=np.inf)
    return abs(target - cuts.kept(counts)) < smallest or not any(counts.values())


def _close_gap(cuts: Cuts, counts: GroupCounts, tau: float, target: int) -> GroupCounts:
    """Changes the matrices whose cuts are nearest to τ until the target is met or no one or two moves get closer."""
    best = dict(counts)
    while not _is_met(cuts, best, target):
        moved = _move_pair(cuts, _move_singles(cuts, best, tau, target), tau, target)
        if abs(target - cuts.kept(moved)) >= abs(target - cuts.kept(best)):
            break
        best = moved
    return best


def _move_singles(cuts: Cuts, counts: GroupCounts, tau: float, target: int) -> GroupCounts:
    """Changes one matrix after the other, none of them across the target."""
    counts = dict(counts)
    while True:
        gap = target - cuts.kept(counts)
        fitting = [move for move in _moves(cuts, counts, tau) if (0 < move[1] <= gap or gap <= move[1] < 0)]
        if not fitting:
            return counts
        _, _, key, groups = min(fitting, key=lambda move: move[0])
        counts[key] = groups


def _move_pair(cuts: Cuts, counts: GroupCounts, tau: float, target: int) -> GroupCounts:
    """Closes the remaining gap with the best move across the target, or the best pair of moves."""
    if _is_met(cuts, counts, target):
        return counts
    counts, gap, moves = dict(counts), target - cuts.kept(counts), _moves(cuts, counts, tau)
    smallest = min(_block(cuts, key, groups) for key, groups in counts.items())
    # a single move is a pair with "stay" (index 0)
    gains = np.array([0, *(move[1] for move in moves)])
    costs = np.array([0.0, *(move[0] for move in moves)])
    owners = np.array([-1, *(cuts.keys.index(move[2]) for move in moves)])
    blocks = np.array([np.inf, *(_block(cuts, move[2], move[3]) for move in moves)])
    pair_gaps = np.abs(gap - gains[:, None] - gains[None, :])
    pair_costs = np.where(owners[:, None] == owners[None, :], np.inf, costs[:, None] + costs[None, :])
    pair_costs[0, 0] = 0.0
    limits = np.minimum(np.minimum(blocks[:, None], blocks[None, :]), smallest)
    possible = np.isfinite(pair_costs)
    close = possible & (pair_gaps < limits)
    ranking = np.where(close, pair_costs, np.inf) if close.any() else np.where(possible, pair_gaps / limits, np.inf)
    for move in np.unravel_index(np.argmin(ranking), ranking.shape):
        if move > 0:
            _, _, key, groups = moves[int(move) - 1]
            counts[key] = groups
    return counts


def _block(cuts: Cuts, key: MatrixKey, groups: int) -> float:
    """Weights of one block of a matrix in ``groups`` groups (infinite for a dropped matrix)."""
    rows, columns = cuts.shapes[cuts.keys.index(key)]
    return rows * columns / groups**2 if groups != DROPPED else np.inf


def _moves(cuts: Cuts, counts: GroupCounts, tau: float) -> list[Move]:
    """All changes of one matrix that is not dropped to another number of groups."""
    moves: list[Move] = []
    tiny = np.finfo(np.float64).tiny
    for key, shape, thresholds in zip(cuts.keys, cuts.shapes, cuts.thresholds, strict=True):
        current = counts[key]
        if current == DROPPED:
            continue
        for groups in range(1, len(thresholds) + 1):
            if groups == current:
                continue
            crossed = thresholds[groups - 1] if groups < current else thresholds[groups - 2]
            change = kept_weights(shape, groups) - kept_weights(shape, current)
            moves.append((abs(float(np.log(max(crossed, tiny) / max(tau, tiny)))), change, key, groups))
    return moves
