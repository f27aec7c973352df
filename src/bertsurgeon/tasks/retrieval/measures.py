"""Retrieval metrics of every query, computed by ir-measures with trec_eval's code (pytrec-eval-terrier)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertsurgeon.errors import OptionError

METRICS: dict[str, str] = {"ndcg_at_10": "nDCG@10", "recall_at_100": "R@100", "mrr_at_10": "RR@10"}
"""Names of the metrics, and of ir-measures' measures; the primary one first."""

RERANKING_METRICS = ("ndcg_at_10", "mrr_at_10")
"""Metrics of rerankers, whose recall is that of the first stage."""

OVERLAP_DEPTH = 10
"""Documents of a ranking that two models' overlap is of."""


def require_retrieval(package: str) -> Any:
    """Imports a package of the extra ``retrieval``.

    Args:
        package: Name of the module.

    Raises:
        OptionError: If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise OptionError(f"{package} is not installed; run: pip install 'bertsurgeon[retrieval]'.") from error


def measure_queries(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Mapping[str, int]], metrics: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Returns metrics of each query, between 0 and 1, in the order of the judgements' queries.

    The gain of a document is its grade (0 if that is negative), and documents with a grade above 0 are relevant.
    Queries without a relevant document, or without a ranking, count 0.

    Args:
        rankings: Ids of documents by query id, best first, each once.
        judgements: Grades by query id, then document id.
        metrics: Keys of ``METRICS``.

    Returns:
        For each metric, its values in the order of the judgements' queries, shape (queries,).

    Raises:
        OptionError: If ir-measures is not installed.
    """
    library = require_retrieval("ir_measures")
    measures = {library.parse_measure(METRICS[name]): name for name in metrics}
    # scores without ties: trec_eval and the other providers would order these differently
    run = {
        query: {document: float(len(rankings[query]) - rank) for rank, document in enumerate(rankings[query])}
        for query in judgements
        if rankings.get(query)
    }
    rows = {query: row for row, query in enumerate(judgements)}
    values = {name: np.zeros(len(rows)) for name in metrics}
    if run:
        qrels = {query: dict(grades) for query, grades in judgements.items()}
        for result in library.iter_calc(list(measures), qrels, run):
            values[measures[result.measure]][rows[result.query_id]] = result.value
    return values


def mean_percent(values: NDArray[np.float64]) -> float:
    """Returns the mean over queries of a metric, in percent.

    Args:
        values: Metric of each query, between 0 and 1, shape (queries,).
    """
    return 100.0 * float(values.mean())


def ranking_overlaps(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Returns the mean overlap of the first document, the first two, … first ten of each query, shape (queries,).

    Args:
        first: Rankings by one model.
        second: Rankings by another one, of the same queries.
    """
    overlaps = []
    for one, two in zip(first, second, strict=True):
        depth = min(OVERLAP_DEPTH, max(len(one), len(two)))
        shares = [len({*one[:count]} & {*two[:count]}) / count for count in range(1, depth + 1)]
        overlaps.append(float(np.mean(shares)) if shares else 1.0)
    return np.asarray(overlaps)
