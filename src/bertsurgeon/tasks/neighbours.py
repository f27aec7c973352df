"""Do two embedders find the same neighbours? By scikit-learn's search; no labels."""

import numpy as np
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

NEAREST = 10
"""Neighbours of a text that count."""


def neighbour_metrics(first: Tensor, second: Tensor) -> dict[str, float]:
    """How far a second embedder finds what the first one finds, in percent.

    Args:
        first: The first one's embeddings, shape (texts, width).
        second: The second one's, shape (texts, any width).

    Returns:
        ``recall_at_10``: of the first one's ten nearest neighbours (by cosine) of each text among all others, how many
        are among the second one's; left out with fewer than twelve texts, where ten is all others. ``rank_overlap``:
        the same for the nearest one, the two nearest, and so on up to ten (or all others), and the mean of these, which
        minds the order (average overlap: Webber et al., 2010, ACM TOIS 28(4), section 3.2). ``cosine``, where the
        widths are the same: the mean of 100 times the cosine of both embeddings of a text.
    """
    count = min(NEAREST, len(first) - 1)
    measured: dict[str, float] = {"rank_overlap": 100.0}
    if count > 0:
        left, right = (_nearest(embeddings, count) for embeddings in (first, second))
        same = left[:, :, None] == right[:, None, :]
        shares = [same[:, :depth, :depth].sum((1, 2)) / depth for depth in range(1, count + 1)]
        measured = {"recall_at_10": 100 * float(shares[-1].mean())} if len(first) > NEAREST + 1 else {}
        measured["rank_overlap"] = 100 * float(np.mean(shares))
    if first.shape == second.shape:
        cosines = (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1)).clamp_min(1e-12)
        measured["cosine"] = 100 * float(cosines.mean())
    return measured


def _nearest(embeddings: Tensor, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Positions of each row's nearest others, shape (rows, count)."""
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    found: np.ndarray[tuple[int, int], np.dtype[np.int64]] = search.fit(embeddings.double().numpy()).kneighbors(
        return_distance=False
    )
    return found
