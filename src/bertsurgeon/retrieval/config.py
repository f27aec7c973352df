"""Options of a search."""

from __future__ import annotations

from dataclasses import dataclass

from bertsurgeon.errors import OptionError
from bertsurgeon.options import documented, option
from bertsurgeon.tasks.retrieval import DEPTH

BM25 = "bm25"
"""Name of the first stage by words."""


@documented
@dataclass(frozen=True)
class RetrievalConfig:
    """How a collection is searched.

    Raises:
        OptionError: If there are fewer than 2 candidates, or more than the metrics read.
    """

    split: str | None = option(
        None, "Collection in BEIR's layout: name of a file of judgements in qrels. Default: test, or the only one."
    )
    query_prompt: str | None = option(
        None,
        "Embedders: the name of a prompt of the model, or a text with a space or colon, before each query. Default: "
        "the model's prompt for queries, if it has one; '' for none.",
    )
    document_prompt: str | None = option(None, "Embedders: the same for documents.")
    first_stage: str = option(
        BM25, "Rerankers: what finds the candidates: bm25, or the folder or hub id of an embedder."
    )
    candidates: int = option(50, "Rerankers: documents per query that the first stage finds.")

    def __post_init__(self) -> None:
        if not 2 <= self.candidates <= DEPTH:
            raise OptionError(f"The number of candidates must lie between 2 and {DEPTH}, not {self.candidates}.")
