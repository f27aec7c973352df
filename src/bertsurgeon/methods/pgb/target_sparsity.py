"""Group counts that meet a target sparsity to within one block.

The paper's threshold does not determine the size of the result. Here τ is bisected over its finitely many cuts until
the next lower one would keep too much; the remaining gap is closed by changing the matrices whose cut is nearest to τ,
one or two of them at a time.
"""

import numpy as np
from torch import Tensor

from bertsurgeon.calibration import MatrixKey
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.pgb.group_counts import DROPPED, Cuts, GroupCounts, kept_weights

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
