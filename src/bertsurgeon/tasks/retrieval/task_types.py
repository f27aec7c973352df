"""Task types whose labels are judgements: retrieval with embeddings, and reranking with scores of pairs.

Their datasets hold texts and judgements together, so that a part of the queries is a part of the rows. They are no
types of a user's files: :mod:`bertsurgeon.tasks.retrieval.reading` reads collections.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bertsurgeon.errors import DataError
from bertsurgeon.tasks.retrieval.collection import Collection
from bertsurgeon.tasks.retrieval.measures import (
    METRICS,
    RERANKING_METRICS,
    mean_percent,
    measure_queries,
    ranking_overlaps,
)
from bertsurgeon.tasks.retrieval.ranking import rank_scores, search_blocks
from bertsurgeon.tasks.table import Task
from bertsurgeon.tasks.types import Embedding, Head, Outputs, Regression, TaskType
from bertsurgeon.tasks.types.embedding import EMBEDDING

if TYPE_CHECKING:
    from datasets import Dataset

QUERY, DOCUMENT, JUDGED, EXCLUDED = "query", "document", "judged", "excluded"
"""Columns: id of the query ("" in rows of documents), id of the document ("" in rows of queries), in the row of a
query, or the first of its pairs, its judgements as JSON, and in the row of a query the id of the document that is the
query itself."""

SHARED = -1
"""Number of rows that belong to every query."""


class Ranking(TaskType):
    """A task whose metrics are means over queries."""

    @abstractmethod
    def rankings(self, outputs: Sequence[Outputs], dataset: Dataset) -> dict[str, list[str]]:
        """Returns the documents of each query, best first.

        Args:
            outputs: Outputs of the model for each row.
            dataset: The rows, with the columns ``query`` and ``document``.
        """

    def measure(
        self, metrics: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, NDArray[np.float64]]:
        """Returns metrics of each query, between 0 and 1, shape (queries,).

        Args:
            metrics: Names of the metrics.
            outputs: Outputs of the model for each row.
            dataset: The rows, with judgements.

        Raises:
            DataError: If there are no judgements.
        """
        if JUDGED not in dataset.column_names:
            raise DataError("Evaluation of a search needs judgements; pass the rows that retrieval_rows returned.")
        rankings = self.rankings(outputs, dataset)
        judgements = {
            query: json.loads(judged)
            for query, judged in zip(dataset[QUERY], dataset[JUDGED], strict=True)
            if query and judged
        }
        return measure_queries(rankings, judgements, metrics)

    def overlaps(
        self, reference: Sequence[Outputs], outputs: Sequence[Outputs], dataset: Dataset
    ) -> NDArray[np.float64]:
        """Returns the overlap of the rankings of two models, between 0 and 1, shape (queries,)."""
        first, second = (self.rankings(one, dataset) for one in (reference, outputs))
        return ranking_overlaps(list(first.values()), [second[query] for query in first])

    def is_labeled(self, columns: Sequence[str]) -> bool:
        """Returns whether there are judgements."""
        return JUDGED in columns

    def score(
        self, metrics: Sequence[str], labels: Sequence[str], outputs: Sequence[Outputs], dataset: Dataset
    ) -> dict[str, float]:
        """Returns the means over queries, in percent."""
        return {name: mean_percent(values) for name, values in self.measure(metrics, outputs, dataset).items()}


@dataclass(frozen=True)
class Retrieval(Ranking, Embedding):
    """Search with one vector per text.

    Attributes:
        similarity: Similarity of vectors, one of :data:`bertsurgeon.tasks.retrieval.ranking.SIMILARITIES`.
    """

    name: ClassVar[str] = "retrieval"
    similarity: str = "cosine"

    def fits_head(self, head: Head) -> bool:
        """Returns whether a head makes embeddings."""
        return isinstance(head, Embedding)

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Returns the model's inputs, and the ids and judgements if there are any."""
        encoded = Embedding.encode(self, {"text": rows["text"]}, indices, tokenizer, limit)
        return {**encoded, **_ranking_columns(rows)}

    def rankings(self, outputs: Sequence[Outputs], dataset: Dataset) -> dict[str, list[str]]:
        """Returns the documents of each query by the similarity of their vectors."""
        queries, documents = dataset[QUERY][:], dataset[DOCUMENT][:]
        vectors = torch.stack([row[EMBEDDING] for row in outputs])
        document_rows = [row for row, document in enumerate(documents) if document]
        return search_blocks(
            {query: vectors[row] for row, query in enumerate(queries) if query},
            [documents[row] for row in document_rows],
            lambda start, end: vectors[document_rows[start:end]],
            self.similarity,
            {query: document for query, document in zip(queries, dataset[EXCLUDED], strict=True) if document},
        )


@dataclass(frozen=True)
class Reranking(Ranking, Regression):
    """Sorting the documents that a first stage found, by a model's score of each pair of query and document."""

    name: ClassVar[str] = "reranking"
    learns_from_labels: ClassVar[bool] = False

    def fits_head(self, head: Head) -> bool:
        """Returns whether a head scores pairs of texts with one number."""
        return isinstance(head, Regression)

    def describe(self, outputs: int) -> str:
        """Returns a description for error messages."""
        return "the score of a query and a document, one number"

    def encode(
        self, rows: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> dict[str, list[Any]]:
        """Returns the model's inputs, and the ids and judgements if there are any."""
        texts: dict[str, list[Any]] = {str(name): rows[name] for name in ("text", "text_pair") if name in rows}
        return {**Regression.encode(self, texts, indices, tokenizer, limit), **_ranking_columns(rows)}

    def rankings(self, outputs: Sequence[Outputs], dataset: Dataset) -> dict[str, list[str]]:
        """Returns the documents of each query by the model's scores."""
        pairs: dict[str, tuple[list[str], list[float]]] = {}
        for query, document, output in zip(dataset[QUERY], dataset[DOCUMENT], outputs, strict=True):
            ids, scores = pairs.setdefault(query, ([], []))
            if document:
                ids.append(document)
                scores.append(float(output["logits"].reshape(-1)[0]))
        return {query: rank_scores(ids, scores) for query, (ids, scores) in pairs.items()}


def _ranking_columns(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: rows[name] for name in (QUERY, DOCUMENT, JUDGED, EXCLUDED) if name in rows}


def retrieval_task(similarity: str = "cosine") -> Task:
    """Returns the task of an embedder."""
    return Task("retrieval", tuple(METRICS), type=Retrieval(similarity))


def reranking_task() -> Task:
    """Returns the task of a reranker."""
    return Task("retrieval", RERANKING_METRICS, type=Reranking())


def retrieval_rows(collection: Collection, query_prompt: str = "", document_prompt: str = "") -> Dataset:
    """Returns the rows of an embedder's task: one per query, then one per document.

    Args:
        collection: The collection.
        query_prompt: Text before each query.
        document_prompt: Text before each document.

    Returns:
        Columns ``text``, ``query``, ``document``, ``judged`` and ``excluded``.
    """
    from datasets import Dataset

    identical = collection.identical_documents()
    queries, documents = collection.queries, collection.documents
    return Dataset.from_dict(
        {
            "text": [
                *(query_prompt + text for text in queries.values()),
                *(document_prompt + text for text in documents.values()),
            ],
            QUERY: [*queries, *("" for _ in documents)],
            DOCUMENT: ["" for _ in queries] + list(documents),
            JUDGED: [*(json.dumps(collection.judgements[query]) for query in queries), *("" for _ in documents)],
            EXCLUDED: [*(identical.get(query, "") for query in queries), *("" for _ in documents)],
        }
    )


def reranking_rows(collection: Collection, candidates: Mapping[str, Sequence[str]]) -> Dataset:
    """Returns the rows of a reranker's task: one per query and document that the first stage found.

    Args:
        collection: The collection.
        candidates: Documents of the first stage by query; a query without any has a row without a document, and counts
            0.

    Returns:
        Columns ``text``, ``text_pair``, ``query``, ``document`` and ``judged``.

    Raises:
        DataError: If the first stage found nothing.
    """
    from datasets import Dataset

    if not any(candidates.values()):
        raise DataError(f"The first stage found no document of {collection.name} for any query.")
    rows = [
        {
            "text": collection.queries[query],
            "text_pair": collection.documents.get(document, ""),
            QUERY: query,
            DOCUMENT: document,
            JUDGED: json.dumps(collection.judgements[query]) if rank == 0 else "",
        }
        for query, documents in candidates.items()
        for rank, document in enumerate(documents or [""])
    ]
    return Dataset.from_list(rows)


def query_numbers(dataset: Dataset) -> NDArray[np.int64]:
    """Returns the number of the query that each row belongs to; ``SHARED`` for documents, which belong to all."""
    numbers: dict[str, int] = {}
    values = [numbers.setdefault(query, len(numbers)) if query else SHARED for query in dataset[QUERY]]
    return np.asarray(values, dtype=np.int64)
