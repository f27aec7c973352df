"""Retrieval: collections with judgements, exact search, metrics of every query, and the tasks made of them."""

from bertsurgeon.tasks.retrieval.collection import Collection, Judgement
from bertsurgeon.tasks.retrieval.first_stage import rank_by_words
from bertsurgeon.tasks.retrieval.measures import METRICS, RERANKING_METRICS, measure_queries
from bertsurgeon.tasks.retrieval.paired import PairedDifference, paired_difference
from bertsurgeon.tasks.retrieval.ranking import DEPTH, SIMILARITIES, TopDocuments
from bertsurgeon.tasks.retrieval.reading import collection_files, read_collection
from bertsurgeon.tasks.retrieval.task_types import (
    SHARED,
    Ranking,
    Reranking,
    Retrieval,
    query_numbers,
    reranking_rows,
    reranking_task,
    retrieval_rows,
    retrieval_task,
)

__all__ = [
    "DEPTH",
    "METRICS",
    "RERANKING_METRICS",
    "SHARED",
    "SIMILARITIES",
    "Collection",
    "Judgement",
    "PairedDifference",
    "Ranking",
    "Reranking",
    "Retrieval",
    "TopDocuments",
    "collection_files",
    "measure_queries",
    "paired_difference",
    "query_numbers",
    "rank_by_words",
    "read_collection",
    "reranking_rows",
    "reranking_task",
    "retrieval_rows",
    "retrieval_task",
]
