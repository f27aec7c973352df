"""Exact search: the documents with the highest scores of each query, kept while blocks of documents are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bertsurgeon.errors import ModelError, OptionError

DEPTH = 100
"""Documents that are kept for each query: what the metrics read."""

BLOCK = 4096
"""Documents that are embedded and searched at a time."""

MAX_SCORES = 8_000_000
"""Scores that are in memory at a time: 32 MB."""

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""Names of sentence-transformers' similarity functions."""


def similarity(name: str, queries: Tensor, documents: Tensor) -> Tensor:
    """Returns the similarity of all pairs, higher for more similar ones, shape (queries, documents).

    Args:
        name: One of ``SIMILARITIES``; distances are negated.
        queries: Shape (queries, width).
        documents: Shape (documents, width).

    Raises:
        OptionError: If there is no such similarity.
    """
    if name == "cosine":
        return F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T
    if name == "dot":
        return queries @ documents.T
    if name in SIMILARITIES:
        return -torch.cdist(queries, documents, p=2.0 if name == "euclidean" else 1.0)
    raise OptionError(f"There is no similarity {name!r}; choose one of {', '.join(SIMILARITIES)}.")


class TopDocuments:
    """The best documents of each query so far.

    Equal scores are ordered as trec_eval does, by descending id. Memory: the queries' vectors, ``DEPTH`` numbers per
    query, and ``MAX_SCORES`` scores.

    Args:
        queries: Vectors of the queries, shape (queries, width).
        document_ids: Ids of all documents that will be added.
        metric: Similarity, one of ``SIMILARITIES``.
        excluded: Positions of a document, by position of the query, that is left out of its ranking.
        depth: Documents to keep for each query.
    """

    def __init__(
        self,
        queries: Tensor,
        document_ids: Sequence[str],
        metric: str = "cosine",
        excluded: Mapping[int, int] | None = None,
        depth: int = DEPTH,
    ) -> None:
        _check_finite(queries, "a query")
        self._queries, self._metric, self._depth = queries, metric, depth
        self._ids = list(document_ids)
        self._precedence = precedence(self._ids)
        self._excluded = dict(excluded or {})
        self._scores: list[NDArray[np.float32]] = [np.empty(0, np.float32) for _ in range(len(queries))]
        self._positions: list[NDArray[np.int64]] = [np.empty(0, np.int64) for _ in range(len(queries))]

    def add(self, start: int, vectors: Tensor) -> None:
        """Adds consecutive documents.

        Args:
            start: Position of the first one.
            vectors: Their vectors, shape (documents, width).

        Raises:
            ModelError: If a vector holds no finite numbers.
        """
        _check_finite(vectors, "a document")
        rows = max(1, MAX_SCORES // max(1, len(vectors)))
        for first in range(0, len(self._queries), rows):
            scores = similarity(self._metric, self._queries[first : first + rows], vectors)
            count = min(self._depth + 1, len(vectors))  # one more, as a document may be excluded
            lowest = scores.topk(count, dim=1).values[:, -1:]
            for row, kept in enumerate((scores >= lowest).numpy()):  # ties of the last one included
                offsets = np.flatnonzero(kept)
                self._merge(first + row, start + offsets, scores[row].numpy()[offsets])

    def _merge(self, query: int, positions: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        if query in self._excluded:
            remaining = positions != self._excluded[query]
            positions, scores = positions[remaining], scores[remaining]
        positions = np.concatenate([self._positions[query], positions])
        scores = np.concatenate([self._scores[query], scores])
        order = np.lexsort((self._precedence[positions], -scores))[: self._depth]
        self._positions[query], self._scores[query] = positions[order], scores[order]

    def rankings(self) -> list[list[str]]:
        """Returns the ids of the best documents of each query, best first."""
        return [[self._ids[position] for position in positions] for positions in self._positions]


def search_blocks(
    queries: Mapping[str, Tensor],
    document_ids: Sequence[str],
    embed: Callable[[int, int], Tensor],
    metric: str,
    identical: Mapping[str, str],
) -> dict[str, list[str]]:
    """Searches all documents in blocks, so that memory does not grow with their number.

    Args:
        queries: Vector of each query by id, shape (width,).
        document_ids: Ids of the documents.
        embed: Returns the vectors of the documents from a position to another one, shape (documents, width).
        metric: Similarity, one of ``SIMILARITIES``.
        identical: Id of a document by query id that is left out of the query's ranking.

    Returns:
        Ids of the best documents of each query, best first, at most ``DEPTH``.

    Raises:
        ModelError: If a vector holds no finite numbers.
    """
    positions = {document: position for position, document in enumerate(document_ids)}
    excluded = {row: positions[identical[query]] for row, query in enumerate(queries) if query in identical}
    top = TopDocuments(torch.stack(list(queries.values())), document_ids, metric, excluded)
    for start in range(0, len(document_ids), BLOCK):
        top.add(start, embed(start, start + BLOCK))
    return dict(zip(queries, top.rankings(), strict=True))


def precedence(ids: Sequence[str]) -> NDArray[np.int64]:
    """Returns the place of each document among documents with equal scores: descending ids, as in trec_eval."""
    order = sorted(range(len(ids)), key=lambda position: ids[position], reverse=True)
    places = np.empty(len(ids), np.int64)
    places[order] = np.arange(len(ids))
    return places


def rank_scores(ids: Sequence[str], scores: Sequence[float]) -> list[str]:
    """Returns ids by descending score; equal scores by descending id.

    Raises:
        ModelError: If a score is no finite number.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ModelError("The model's score of a document is not a finite number; check its weights.")
    return [ids[position] for position in np.lexsort((precedence(ids), -values))]


def _check_finite(vectors: Tensor, what: str) -> None:
    if not torch.isfinite(vectors).all():
        raise ModelError(f"The model's embedding of {what} is not finite; check its weights.")
