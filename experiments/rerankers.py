r"""Rerankers on judged queries: a cross-encoder trained on pairs without judgements, pruned, and exported to INT8.

    python experiments/base_encoder.py
    python experiments/rerankers.py --cranfield ../shared/data/cranfield --bf16
    python experiments/rerankers.py ... --speed

The pairs are the first sentence of each document of the collection beside documents that BM25 finds for it; the score
of a pair is the cosine of the embeddings that all-mpnet-base-v2 gives (pseudo-labels, as in Wang et al., 2112.07577).
A document is never a pair with its first sentence, which it repeats. all-MiniLM-L6-v2 is fine-tuned on them, pruned
and recovered on the same pairs without their scores. Queries and judgements only measure: each model sorts the first 20
documents of BM25. Rows are `VARIANT/RUNTIME-PRECISION` with the metrics of every query; `training` is the fine-tuning.
`--speed` times all variants of a runtime in turns, tokenization included, and needs an idle machine.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import set_seed

from bertsurgeon import TrainingConfig, evaluate, load_model, save_model, train
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.prediction import Predictor, predict_outputs
from bertsurgeon.retrieval import RetrievalConfig, evaluate_retrieval
from bertsurgeon.tasks import Task, TaskData, tokenize
from bertsurgeon.tasks.retrieval import Collection, Judgement, rank_by_words, read_collection
from bertsurgeon.tasks.types import REGRESSION, Embedding
from bertsurgeon.workflows import resolve_model
from bertsurgeon.workflows.train_and_save import load_for_finetuning
from lib.common import parse_arguments
from lib.models import BASE_ENCODER
from lib.results_store import RUNS, ResultsStore
from lib.variants import (
    BATCH_SIZE,
    Variants,
    make_variants_parser,
    recovery_options,
    rounded,
    runtimes,
    selected,
    time_in_turns,
    variant_names,
    with_tokenizer,
)

FOLDER = RUNS / "rerankers"
METHODS = ("auto-{:g}", "auto-{:g}-recovered")
MAX_LENGTH, TRAINING_LENGTH = 512, 256
"""Tokens at which pairs are cut, in training for time's sake."""
FOUND, PAIRS = 20, 4
"""Documents that BM25 finds for a sentence, and those of them that make pairs."""
HELD_OUT = 0.1
"""Share of the sentences whose pairs only measure the training."""


class Reranker(Variants):
    """The cross-encoder, its pairs and its variants."""

    def __init__(self, arguments: argparse.Namespace, collection: Collection) -> None:
        training = recovery_options(arguments, batch_size=32)
        super().__init__(str(FOLDER / "dense"), FOLDER, training, {"pairs": PAIRS, "seed": arguments.seed})
        self.arguments, self.collection = arguments, collection

    def load_texts(self) -> Dataset:
        """Loads the pairs without their scores."""
        return tokenize(self.pairs().train.remove_columns("label"), self.tokenizer, TRAINING_LENGTH, REGRESSION)

    def pairs(self) -> TaskData:
        """Loads the scored pairs, which are kept."""
        folder = FOLDER / "pairs"
        if not folder.is_dir():
            scored_pairs(self.collection, self.arguments).save_to_disk(folder)
        pairs = Dataset.load_from_disk(folder)
        sentences = pairs.unique("text")
        held_out = set(sentences[: round(HELD_OUT * len(sentences))])
        task = Task("pairs", ("pearson", "spearman"), type=REGRESSION)
        return TaskData(
            task,
            pairs.filter(lambda row: row["text"] not in held_out),
            pairs.filter(lambda row: row["text"] in held_out),
        )

    def finetune(self) -> dict[str, Any]:
        """Trains the cross-encoder on the scores of the pairs."""
        used, data = self.arguments, self.pairs()
        set_seed(used.seed)
        model, tokenizer = load_for_finetuning(resolve_model("minilm"), data)
        config = TrainingConfig(
            epochs=used.finetuning_epochs, batch_size=32, learning_rate=1e-4, bf16=used.bf16, seed=used.seed
        )
        train(model, config, tokenize(data.train, tokenizer, TRAINING_LENGTH, REGRESSION), tokenizer)
        save_model(model, self.source, tokenizer, overwrite=True)
        rows = tokenize(data.validation, tokenizer, MAX_LENGTH, REGRESSION)
        return {"held_out": evaluate(model, data.task, rows, tokenizer), "pairs": len(data.train)}

    def measure(self, variant: str, runtime: str, precision: str) -> dict[str, Any]:
        """Returns quality and size of a variant."""
        model = self.open(variant, runtime, precision)
        data = self.pairs()
        held_out = tokenize(data.validation, self.tokenizer, MAX_LENGTH, REGRESSION)
        config = RetrievalConfig(candidates=self.arguments.candidates)
        result = evaluate_retrieval(model, config, self.collection, self.tokenizer)
        return {
            "metrics": {**result.metrics, **evaluate(model, data.task, held_out, self.tokenizer)},
            "first_stage": result.first_stage,
            "by_query": rounded(result.by_query),
            **self.sizes(variant),
        }

    def scorer(self, model: Predictor) -> Callable[[list[tuple[str, str]]], Any]:
        """Returns a function from pairs of texts to scores, tokenization included."""
        run = with_tokenizer(model, self.tokenizer, MAX_LENGTH)
        return lambda pairs: run(pairs).logits


def scored_pairs(collection: Collection, arguments: argparse.Namespace) -> Dataset:
    """Returns first sentences with documents that BM25 finds, and the embedder's cosines, standardized."""
    documents = {number: text for number, text in collection.documents.items() if text}
    sentences = {f"sentence {number}": text.split(" . ")[0] for number, text in documents.items()}
    judgements = [Judgement(query, query.removeprefix("sentence "), 1) for query in sentences]
    candidates = rank_by_words(Collection.from_parts("pairs", documents, sentences, judgements), FOUND + 1)
    random = np.random.default_rng(arguments.seed)
    embedder, tokenizer = load_model(arguments.base).eval(), load_tokenizer(arguments.base)
    embeddings: dict[str, torch.Tensor] = {}
    for texts in (sentences, documents):
        rows = Dataset.from_dict({"text": list(texts.values())})
        tokens = tokenize(rows, tokenizer, embedder.max_seq_length, Embedding())
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            outputs = predict_outputs(embedder, tokens, tokenizer, description="Embedding")
        vectors = (F.normalize(row["sentence_embedding"].float().flatten(), dim=0) for row in outputs)
        embeddings |= zip(texts, vectors, strict=True)
    rows = []
    for query, judged in zip(sentences, judgements, strict=True):
        others = [document for document in candidates[query] if document != judged.document]
        for document in random.choice(others, min(PAIRS, len(others)), replace=False).tolist():
            cosine = float(embeddings[query] @ embeddings[document])
            rows.append({"text": sentences[query], "text_pair": documents[document], "label": cosine})
    labels = np.array([row["label"] for row in rows])
    for row, label in zip(rows, (labels - labels.mean()) / labels.std(), strict=True):
        row["label"] = float(label)
    return Dataset.from_list(rows)


def main() -> None:
    parser = make_variants_parser(__doc__, learning_rate=1e-4)
    parser.add_argument("--base", type=Path, default=BASE_ENCODER, help="folder of all-mpnet-base-v2")
    parser.add_argument("--candidates", type=int, default=20, help="documents of BM25 that are sorted")
    parser.add_argument("--finetuning-epochs", type=float, default=1, help="of the cross-encoder")
    arguments = parse_arguments(parser)
    results = ResultsStore("rerankers", arguments)
    reranker = Reranker(arguments, read_collection(arguments.cranfield))
    if not Path(reranker.source).is_dir():
        results.run("training", reranker.finetune, {"epochs": arguments.finetuning_epochs, "pairs": PAIRS})
    for runtime, precision in runtimes():
        names = variant_names(arguments.shares, METHODS)
        variants = [name for name in names if selected(f"{name}/{runtime}-{precision}", arguments)]
        configuration = {"runtime": runtime, "precision": precision, "candidates": arguments.candidates}
        if arguments.speed and variants:
            scorers = {name: reranker.scorer(reranker.open(name, runtime, precision)) for name in variants}
            timed = partial(time_in_turns, scorers, candidates_of(reranker.collection), "pairs", arguments.seed)
            results.run(f"speed/{runtime}-{precision}", timed, {**configuration, "batch_size": BATCH_SIZE})
        for name in () if arguments.speed else variants:
            training = {"training": asdict(reranker.training)} if name.endswith("-recovered") else {}
            measure = partial(reranker.measure, name, runtime, precision)
            results.run(f"{name}/{runtime}-{precision}", measure, {**configuration, **training})


def candidates_of(collection: Collection) -> list[tuple[str, str]]:
    """Returns all pairs of a query and a document that BM25 finds first for it."""
    candidates = rank_by_words(collection, 2)
    return [
        (collection.queries[query], collection.documents[number])
        for query in candidates
        for number in candidates[query]
    ]


if __name__ == "__main__":
    main()
