"""Retrieval judged by people: rankings by embedders and rerankers, their metrics, and paired tests over queries.

Embedders search all documents exactly, in blocks; rerankers sort what a first stage found. Texts are encoded as
sentence-transformers encodes them: with the model's prompts, cut at the model's own length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bertsurgeon.devices import Device, running_on
from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.evaluation import check_head
from bertsurgeon.prediction import Predictor, evaluating, predict_outputs
from bertsurgeon.retrieval.config import RetrievalConfig
from bertsurgeon.retrieval.encoding import Encoding, encoding_of
from bertsurgeon.tasks import Embedding, Task, as_dataset, head_of
from bertsurgeon.tasks.retrieval import (
    METRICS,
    RERANKING_METRICS,
    Collection,
    Reranking,
    measure_queries,
    rank_by_words,
    reranking_rows,
    reranking_task,
    retrieval_task,
)
from bertsurgeon.tasks.retrieval.measures import mean_percent, require_retrieval
from bertsurgeon.tasks.retrieval.paired import PairedDifference, paired_difference
from bertsurgeon.tasks.retrieval.ranking import search_blocks
from bertsurgeon.tasks.tokenization import Truncation, tokenize_part
from bertsurgeon.tasks.types.embedding import EMBEDDING


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics of a model on a collection.

    Attributes:
        metrics: Means over queries, in percent.
        by_query: Metrics of each query, between 0 and 1, in the order of ``queries``.
        queries: Ids of the queries.
        rankings: Documents of each query, best first, at most ``DEPTH``.
        encoding: How texts were encoded.
        truncated: Texts, or pairs, that were cut.
        first_stage: Metrics of the first stage of a reranker, in percent; None for embedders.
    """

    metrics: dict[str, float]
    by_query: dict[str, NDArray[np.float64]]
    queries: list[str]
    rankings: dict[str, list[str]]
    encoding: Encoding
    truncated: int
    first_stage: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for reports, without the rankings."""
        return {
            "metrics": self.metrics,
            "queries": len(self.queries),
            "encoding": asdict(self.encoding),
            "truncated": self.truncated,
            "first_stage": self.first_stage,
            "by_query": {
                name: dict(zip(self.queries, values.tolist(), strict=True)) for name, values in self.by_query.items()
            },
        }


def evaluate_retrieval(
    model: Predictor,
    config: RetrievalConfig | None,
    collection: Collection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    candidates: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 64,
    max_length: int | None = None,
    device: Device | None = None,
) -> RetrievalResult:
    """Searches a collection with an embedder, or sorts candidates with a reranker, and computes the metrics.

    Args:
        model: Dense, pruned or exported embedder, or model that scores a pair of texts with one number.
        config: Options; None for the defaults.
        collection: The collection (:func:`bertsurgeon.tasks.retrieval.read_collection`).
        tokenizer: Tokenizer of the model.
        candidates: Rerankers: documents of a first stage by query, best first, at least an empty list for each query
            of the collection; None for BM25's.
        batch_size: Texts per batch.
        max_length: Maximum number of tokens per text, or pair; None for the model's own.
        device: Where a PyTorch model runs; None for its own device if that is no CPU, else for the accelerator of the
            machine, if it has one.

    Returns:
        Metrics and rankings of each query, and how texts were encoded.

    Raises:
        ModelError: If the model neither embeds nor scores, or has a prompt that its pooling ignores.
        OptionError: If an option does not fit the model, an embedder gets candidates, or the extra ``retrieval`` is
            not installed.
        DataError: If the candidates do not fit the collection, or there are none for any query.

    Example:
        >>> from bertsurgeon.retrieval import evaluate_retrieval
        >>> from bertsurgeon.tasks.retrieval import Collection, Judgement
        >>> from bertsurgeon.testing import toy_classifier
        >>> texts = {"a": "warm film", "b": "cold film", "c": "a dull day"}
        >>> collection = Collection.from_parts("films", texts, {"1": "a warm film"}, [Judgement("1", "a", 2)])
        >>> classifier, tokenizer, _ = toy_classifier()
        >>> classifier.config.num_labels = 1
        >>> reranker = type(classifier)(classifier.config)
        >>> result = evaluate_retrieval(reranker, None, collection, tokenizer, candidates={"1": ["b", "a"]})
        >>> sorted(result.rankings["1"]), result.first_stage["mrr_at_10"]
        (['a', 'b'], 50.0)
    """
    require_retrieval("ir_measures")
    config = config or RetrievalConfig()
    encoding = encoding_of(model, config, tokenizer, max_length)
    task = task_for(model, encoding)
    check_head(model, task)
    is_reranker = isinstance(task.type, Reranking)
    if candidates is not None:
        if not is_reranker:
            raise OptionError("Candidates are for rerankers; an embedder searches all documents. Leave them out.")
        _check_candidates(candidates, collection)
    with evaluating(model), running_on(device, model):
        if not is_reranker:
            rankings, truncation = search(model, collection, tokenizer, encoding, batch_size)
            first_stage = None
        else:
            chosen = rank_by_words(collection, config.candidates) if candidates is None else candidates
            chosen = {query: list(documents[: config.candidates]) for query, documents in chosen.items()}
            first = measure_queries(chosen, collection.judgements, RERANKING_METRICS)
            first_stage = _percent(first)
            rows, truncation = tokenize_part(
                reranking_rows(collection, chosen), tokenizer, encoding.max_length, task.type
            )
            assert isinstance(task.type, Reranking)
            rankings = task.type.rankings(
                predict_outputs(model, as_dataset(rows, tokenizer, model), tokenizer, batch_size, "Scoring pairs"), rows
            )
    truncation.report()
    metrics = RERANKING_METRICS if is_reranker else tuple(METRICS)
    by_query = measure_queries(rankings, collection.judgements, metrics)
    queries = list(collection.judgements)
    return RetrievalResult(_percent(by_query), by_query, queries, rankings, encoding, truncation.cut, first_stage)


def _check_candidates(candidates: Mapping[str, Sequence[str]], collection: Collection) -> None:
    """Checks that candidates are of the collection's queries and documents, each document once.

    Raises:
        DataError: If they are not.
    """
    for query in collection.queries:
        if query not in candidates:
            raise DataError(
                f"There are no candidates for query {query!r} of {collection.name}; give an empty list if the first "
                "stage has none."
            )
    for query, documents in candidates.items():
        if query not in collection.queries:
            raise DataError(
                f"The candidates name the query {query!r}, which is no judged query of {collection.name}; leave it out."
            )
        if len(set(documents)) < len(documents):
            raise DataError(f"The candidates of query {query!r} name a document twice; leave the second one out.")
        for document in documents:
            if document not in collection.documents:
                raise DataError(
                    f"The candidates of query {query!r} name the document {document!r}, which {collection.name} does "
                    "not hold; leave it out, or use the collection that was searched."
                )


def task_for(model: Predictor, encoding: Encoding) -> Task:
    """Returns the task of a model: a search for embedders, reranking for all others."""
    return retrieval_task(encoding.similarity) if isinstance(head_of(model), Embedding) else reranking_task()


def search(
    model: Predictor,
    collection: Collection,
    tokenizer: PreTrainedTokenizerBase,
    encoding: Encoding,
    batch_size: int = 64,
) -> tuple[dict[str, list[str]], Truncation]:
    """Searches all documents with an embedder, in blocks, so that memory does not grow with their number.

    Args:
        model: The embedder, in evaluation mode.
        collection: The collection.
        tokenizer: Tokenizer of the model.
        encoding: How texts are encoded.
        batch_size: Texts per batch.

    Returns:
        Documents of each query, best first; and what was cut.
    """
    ids = list(collection.documents)
    queries, truncation = _embed(
        model, [encoding.query_prompt + text for text in collection.queries.values()], tokenizer, encoding, batch_size
    )

    def embed_documents(start: int, end: int) -> torch.Tensor:
        nonlocal truncation
        texts = [encoding.document_prompt + collection.documents[name] for name in ids[start:end]]
        vectors, part = _embed(model, texts, tokenizer, encoding, batch_size)
        truncation += part
        return vectors

    rankings = search_blocks(
        dict(zip(collection.queries, queries, strict=True)),
        ids,
        embed_documents,
        encoding.similarity,
        collection.identical_documents(),
    )
    return rankings, truncation


def _embed(
    model: Predictor, texts: list[str], tokenizer: PreTrainedTokenizerBase, encoding: Encoding, batch_size: int
) -> tuple[torch.Tensor, Truncation]:
    from datasets import Dataset

    rows, truncation = tokenize_part(Dataset.from_dict({"text": texts}), tokenizer, encoding.max_length, Embedding())
    outputs = predict_outputs(model, as_dataset(rows, tokenizer, model), tokenizer, batch_size, "Embedding texts")
    return torch.stack([row[EMBEDDING] for row in outputs]), truncation


# two models


def compare_results(
    reference: RetrievalResult, model: RetrievalResult, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, PairedDifference]:
    """Tests the difference of two models on the same queries.

    Args:
        reference: Result of the model to compare with.
        model: Result of the other model, on the same collection.
        confidence: Confidence of the intervals.
        seed: Seed of the resamples.

    Returns:
        For each metric that both have.

    Raises:
        OptionError: If the queries differ.
    """
    if reference.queries != model.queries:
        raise OptionError("The results are of different queries; evaluate both models on the same collection.")
    return {
        name: paired_difference(reference.by_query[name], values, confidence=confidence, seed=seed)
        for name, values in model.by_query.items()
        if name in reference.by_query
    }


def _percent(by_query: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    return {name: mean_percent(values) for name, values in by_query.items()}
