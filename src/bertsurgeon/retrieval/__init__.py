"""Retrieval judged by people: rankings by embedders and rerankers, their metrics, and paired tests over queries."""

from bertsurgeon.retrieval.config import BM25, RetrievalConfig
from bertsurgeon.retrieval.encoding import Encoding, choose_prompt, encoding_of, settings_of
from bertsurgeon.retrieval.evaluate import RetrievalResult, compare_results, evaluate_retrieval, search, task_for

__all__ = [
    "BM25",
    "Encoding",
    "RetrievalConfig",
    "RetrievalResult",
    "choose_prompt",
    "compare_results",
    "encoding_of",
    "evaluate_retrieval",
    "search",
    "settings_of",
    "task_for",
]
