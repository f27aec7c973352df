"""Searches by name: a collection in a folder, models and a first stage, for ``evaluate`` and ``compress``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.compression import CompressData
from bertsurgeon.devices import running_on
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.evaluation import check_head
from bertsurgeon.options import check_not_given
from bertsurgeon.prediction import Predictor, evaluating
from bertsurgeon.retrieval import (
    BM25,
    Encoding,
    RetrievalConfig,
    RetrievalResult,
    encoding_of,
    evaluate_retrieval,
    search,
    task_for,
)
from bertsurgeon.tasks import Embedding, head_of, task_type_for_texts, tokenize
from bertsurgeon.tasks.retrieval import (
    Collection,
    Reranking,
    Retrieval,
    rank_by_words,
    read_collection,
    reranking_rows,
    retrieval_rows,
)
from bertsurgeon.tasks.retrieval.measures import require_retrieval
from bertsurgeon.tasks.table import RETRIEVAL
from bertsurgeon.workflows.inputs import DataConfig, open_model, read_all_texts, resolve_model

if TYPE_CHECKING:
    from datasets import Dataset

MAX_TRAINING = 50_000
"""Documents that are calibrated and recovered on, if no texts are named."""

_USED = ("task", "data_dir", "max_length", "text_file", "text_column", "text_pair_column", "task_type")
"""Options of :class:`DataConfig` that a search has."""


def is_retrieval(data: DataConfig, config: RetrievalConfig) -> bool:
    """Returns whether the data is a retrieval collection, and checks the options that go with it.

    Args:
        data: The data.
        config: Options of a search.

    Raises:
        OptionError: If options of a search are given without it, or others with it.
    """
    if data.task != RETRIEVAL:
        check_not_given(config, f"--task {RETRIEVAL}")
        return False
    for each in fields(DataConfig):
        if each.name not in _USED and getattr(data, each.name) != each.default:
            raise OptionError(f"{each.metadata['flag']} has no effect with --task {RETRIEVAL}; leave it out.")
    if data.task_type not in (None, Embedding.name):
        raise OptionError(f"--task {RETRIEVAL} has a type of its own; --task-type can only be {Embedding.name}.")
    if data.data_dir is None:
        raise OptionError(
            f"--task {RETRIEVAL} needs a collection: name its folder with --data-dir (corpus.jsonl, queries.jsonl and "
            "qrels/*.tsv, or the Cranfield files)."
        )
    return True


def load_collection(data: DataConfig, config: RetrievalConfig) -> Collection:
    """Reads the collection.

    Raises:
        DataError: If there is none, or it is broken.
    """
    assert data.data_dir is not None
    return read_collection(data.data_dir, config.split)


class Searcher:
    """Evaluates models by name on one collection; a first stage runs once.

    Args:
        data: Where the collection is.
        config: Options of the search.

    Raises:
        BertSurgeonError: If the collection is missing or broken.
    """

    def __init__(self, data: DataConfig, config: RetrievalConfig) -> None:
        for package in ("ir_measures", "bm25s"):  # before anything is loaded
            require_retrieval(package)
        self.data, self.config = data, config
        self.collection = load_collection(data, config)
        self._first_stage: tuple[Predictor, PreTrainedTokenizerBase, Encoding] | None = None
        self._candidates: dict[str, list[str]] | None = None

    def __call__(self, *names: str) -> list[RetrievalResult]:
        """Evaluates models, all of which are opened and checked before the first search.

        Args:
            *names: Folders, hub ids or exported folders of embedders and rerankers.

        Returns:
            The result of each model.

        Raises:
            BertSurgeonError: If there is no such model, or it does not fit.
        """
        pairs = [self._open(name) for name in names]
        for model, tokenizer in pairs:
            check_head(model, task_for(model, encoding_of(model, self.config, tokenizer, self.data.max_length)))
        self.check_first_stage(model for model, _ in pairs)
        return [
            evaluate_retrieval(
                model,
                self.config,
                self.collection,
                tokenizer,
                candidates=self.candidates_for(model),
                max_length=self.data.max_length,
            )
            for model, tokenizer in pairs
        ]

    def check_first_stage(self, models: Iterable[Predictor]) -> None:
        """Checks the options of rerankers, and opens the first stage if there is a reranker.

        Args:
            models: All models that are evaluated.

        Raises:
            OptionError: If none of them is a reranker, and options of rerankers are given.
            BertSurgeonError: If the first stage is no embedder, or there is no such model.
        """
        if all(isinstance(head_of(model), Embedding) for model in models):
            check_not_given(self.config, "a reranker", ("first_stage", "candidates"))
            return
        name = self.config.first_stage
        if name != BM25:
            model, tokenizer = self._open(name)
            if not isinstance(head_of(model), Embedding):
                raise ModelError(f"{name} is no embedder; --first-stage takes {BM25} or a model that embeds texts.")
            self._first_stage = model, tokenizer, encoding_of(model, RetrievalConfig(), tokenizer)

    def candidates_for(self, model: Predictor) -> dict[str, list[str]] | None:
        """Returns the candidates of a reranker; None for an embedder. Call :meth:`check_first_stage` before."""
        if isinstance(head_of(model), Embedding):
            return None
        if self._candidates is None:
            self._candidates = self._find_candidates()
        return self._candidates

    def _open(self, name: str) -> tuple[Predictor, PreTrainedTokenizerBase]:
        return open_model(name, self.data), load_tokenizer(resolve_model(name))

    def _find_candidates(self) -> dict[str, list[str]]:
        depth = self.config.candidates
        progress.note_once(f"Candidates are the first {depth} documents of each query by {self.config.first_stage}.")
        if self._first_stage is None:
            return rank_by_words(self.collection, depth)
        model, tokenizer, encoding = self._first_stage
        with evaluating(model), running_on(None, model):
            rankings, truncation = search(model, self.collection, tokenizer, encoding)
        truncation.report()
        return {query: documents[:depth] for query, documents in rankings.items()}


def load_retrieval_data(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: DataConfig, config: RetrievalConfig, seed: int
) -> CompressData:
    """Loads and tokenizes the data of a search for a smaller model: judged queries, and texts without labels.

    Args:
        model: The dense model.
        tokenizer: Its tokenizer.
        data: The collection, and unlabeled texts; an embedder is otherwise calibrated and recovered on the documents.
        config: Options of the search.
        seed: Seed of the sample of documents.

    Raises:
        BertSurgeonError: If the data is missing or broken, or does not fit the model.
    """
    searcher = Searcher(data, config)
    collection = searcher.collection
    encoding = encoding_of(model, config, tokenizer, data.max_length)
    task = task_for(model, encoding)
    check_head(model, task)
    searcher.check_first_stage([model])
    candidates = searcher.candidates_for(model)
    if isinstance(task.type, Retrieval):
        rows = retrieval_rows(collection, encoding.query_prompt, encoding.document_prompt)
    else:
        assert candidates is not None
        rows = reranking_rows(collection, candidates)
    if data.text_file is not None:
        texts = read_all_texts(data)
    elif isinstance(task.type, Reranking):
        raise OptionError(
            "A reranker is calibrated and recovered on pairs of texts without labels; name them with --text-file, "
            "--text-column and --text-pair-column."
        )
    else:
        texts = _sample_documents(collection, encoding.document_prompt, seed)
    training = tokenize(texts, tokenizer, encoding.max_length, task_type_for_texts(model))
    return CompressData(training, tokenize(rows, tokenizer, encoding.max_length, task.type), task)


def _sample_documents(collection: Collection, prompt: str, seed: int) -> Dataset:
    """Returns the documents, without those that are blank; a sample if there are many."""
    from datasets import Dataset

    texts = [prompt + text for text in collection.documents.values() if text.strip()]
    if len(texts) > MAX_TRAINING:
        chosen = np.random.default_rng(seed).choice(len(texts), MAX_TRAINING, replace=False)
        texts = [texts[position] for position in np.sort(chosen)]
    progress.note_once(f"Calibrated and recovered on {len(texts):,} documents of the collection, without judgements.")
    return Dataset.from_dict({"text": texts})
