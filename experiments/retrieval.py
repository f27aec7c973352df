r"""Embedders on judged queries: what pruning costs all-mpnet-base-v2, beside the small models that replace it.

    python experiments/base_encoder.py
    python experiments/retrieval.py --data-dir ../shared/data/glue --cranfield ../shared/data/cranfield
    python experiments/retrieval.py ... --speed

No labels are used: models are calibrated and recovered on sentences of GLUE's training parts and docstrings of
installed packages, half each, or on the collection's documents as well (`--documents`), as people have those. Queries,
judgements and STS-B only measure. Rows are `MODEL/VARIANT/RUNTIME-PRECISION`, with the metrics of every query, so that
any two rows can be compared. A variant ending in `-refit` is one whose embeddings are refit on the documents of the
collection (`bertsurgeon.refit_embeddings`); `dense` of MiniLM is what a user would take instead of a pruned base-size
model, and `static` (model2vec, distilled from the same teacher) is the fast end. `--speed` times all variants of a
runtime in turns, from texts to embeddings, and needs an idle machine. `--only 'minilm/auto-0.5/*'` selects rows.

The static model needs model2vec, whose distillation names older versions of transformers than it runs with:
`pip install model2vec && pip install --no-deps 'skeletoken<0.7'`.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from scipy.stats import spearmanr

from bertsurgeon import evaluate
from bertsurgeon.prediction import Predictor
from bertsurgeon.retrieval import evaluate_retrieval
from bertsurgeon.tasks import align_to_model, limit_rows, load_task, read_texts, tokenize
from bertsurgeon.tasks.retrieval import METRICS, Collection, measure_queries, read_collection
from bertsurgeon.tasks.retrieval.measures import mean_percent
from bertsurgeon.tasks.retrieval.ranking import search_blocks
from bertsurgeon.tasks.types import Embedding
from bertsurgeon.workflows import resolve_model
from embedder import SOURCES, scored_pairs, sentences
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

METHODS = ("auto-{:g}", "auto-{:g}-refit", "auto-{:g}-recovered", "auto-{:g}-recovered-refit", "drop-{:g}-recovered")
STATIC = "static"
FOLDER = RUNS / "retrieval"


class Teacher(Variants):
    """A dense embedder, its unlabeled texts, and the variants that are made of it."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        options = {"texts": arguments.texts, "documents": arguments.documents, "seed": arguments.seed}
        options["texts_file"] = None if arguments.texts_file is None else arguments.texts_file.name
        source = str(arguments.base) if name == "mpnet" else resolve_model(name)
        super().__init__(source, FOLDER / name, recovery_options(arguments, batch_size=64), options)
        self.name, self.arguments = name, arguments

    def load_texts(self) -> Dataset:
        """Loads and tokenizes the texts to calibrate and recover with."""
        return tokenize(unlabeled_texts(self.arguments), self.tokenizer, self.max_length, Embedding())

    def load_refit_texts(self) -> Dataset:
        """Loads and tokenizes the documents of the collection, which are what the model will be used on."""
        rows = Dataset.from_dict({"text": documents_of(read_collection(self.arguments.cranfield))})
        return tokenize(rows, self.tokenizer, self.max_length, Embedding())

    @property
    def max_length(self) -> int:
        """Number of tokens at which the model cuts texts."""
        return int(self.dense.max_seq_length)  # type: ignore[operator]

    def measure(self, variant: str, runtime: str, precision: str, data: "Judged") -> dict[str, Any]:
        """Returns quality and size of a variant."""
        model = self.open(variant, runtime, precision)
        result = evaluate_retrieval(model, None, data.collection, self.tokenizer)
        metrics = {**result.metrics, **self.correlations(model, data)}
        return {"metrics": metrics, "by_query": rounded(result.by_query), **self.sizes(variant)}

    def correlations(self, model: Predictor, data: "Judged") -> dict[str, float]:
        """Returns the correlation with human scores of both parts of STS-B."""
        correlations = {}
        for part, pairs in data.pairs.items():
            aligned = align_to_model(pairs, self.dense)
            rows = tokenize(aligned.validation, self.tokenizer, self.max_length, aligned.task.type)
            correlations[f"stsb_{part}"] = evaluate(model, aligned.task, rows, self.tokenizer)["spearman"]
        return correlations

    def encoder(self, model: Predictor) -> Callable[[list[str]], Any]:
        """Returns a function from texts to embeddings, tokenization included."""
        run = with_tokenizer(model, self.tokenizer, self.max_length)
        return lambda texts: run(texts).sentence_embedding


class StaticModel:
    """A static model of model2vec, distilled from a teacher: one vector per token, averaged."""

    def __init__(self, teacher: Teacher) -> None:
        from model2vec import StaticModel as Model

        folder = FOLDER / teacher.name / STATIC
        if not folder.is_dir():
            from model2vec.distill import distill

            distill(model_name=teacher.source, pca_dims=256).save_pretrained(str(folder))
        self.model = Model.from_pretrained(str(folder))

    def encode(self, texts: list[str]) -> torch.Tensor:
        """Returns embeddings, shape (texts, width)."""
        return torch.from_numpy(np.asarray(self.model.encode(texts), dtype=np.float32))

    def measure(self, data: "Judged") -> dict[str, Any]:
        """Returns its quality on the same data as the encoders'."""
        collection = data.collection
        queries, documents = (list(texts.values()) for texts in (collection.queries, collection.documents))
        rankings = search_blocks(
            dict(zip(collection.queries, self.encode(queries), strict=True)),
            list(collection.documents),
            lambda start, end: self.encode(documents[start:end]),
            "cosine",
            {},
        )
        by_query = measure_queries(rankings, collection.judgements, list(METRICS))
        metrics = {name: mean_percent(values) for name, values in by_query.items()}
        for part, pairs in data.pairs.items():
            rows = pairs.validation
            first, second = (self.encode(list(rows[name])) for name in ("text", "text_pair"))
            cosines = torch.nn.functional.cosine_similarity(first, second).numpy()
            metrics[f"stsb_{part}"] = 100 * float(spearmanr(cosines, rows["label"]).statistic)
        return {"metrics": metrics, "by_query": rounded(by_query)}


class Judged:
    """What models are measured on: a collection with judgements, and scored pairs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.collection: Collection = read_collection(arguments.cranfield)
        pairs = scored_pairs(arguments.data_dir)
        self.pairs = {name: limit_rows(data, train=1, validation=arguments.pairs) for name, data in pairs.items()}


def documents_of(collection: Collection) -> list[str]:
    """Returns the documents of a collection that have a text."""
    return [text for text in collection.documents.values() if text]


def unlabeled_texts(arguments: argparse.Namespace) -> Dataset:
    """Returns sentences of GLUE and docstrings, half each, and documents if asked for; or the texts of a file."""
    if arguments.texts_file is not None:
        return read_texts(arguments.texts_file)
    count, seed = arguments.texts // 2, arguments.seed
    parts = [load_task(source, arguments.data_dir).train for source in SOURCES]
    short = sentences(parts, count // len(SOURCES), seed)
    long = load_task("docstrings", seed=seed).train.select_columns("text").shuffle(seed=seed)
    texts = [short, long.select(range(min(count, len(long))))]
    if arguments.documents:
        texts.append(Dataset.from_dict({"text": documents_of(read_collection(arguments.cranfield))}))
    return concatenate_datasets(texts).shuffle(seed=seed)


def make_retrieval_parser(description: str | None) -> argparse.ArgumentParser:
    """Makes the parser with the options of embedders, their texts and what they are measured on."""
    parser = make_variants_parser(description, learning_rate=2e-4)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE")
    parser.add_argument("--documents", action="store_true", help="calibrate and recover on the documents as well")
    parser.add_argument("--texts-file", type=Path, help="texts to calibrate and recover with, instead")
    parser.add_argument("--base", type=Path, default=BASE_ENCODER, help="folder of all-mpnet-base-v2")
    parser.add_argument("--models", nargs="*", default=["mpnet", "minilm"])
    parser.add_argument("--texts", type=int, default=24_000, help="to calibrate and recover with")
    parser.add_argument("--pairs", type=int, default=10_000, help="scored pairs, at most, of either part")
    return parser


def main() -> None:
    arguments = parse_arguments(make_retrieval_parser(__doc__))
    results = ResultsStore("retrieval", arguments)
    teachers = {name: Teacher(name, arguments) for name in arguments.models}
    judged = Judged(arguments)
    for runtime, precision in runtimes():
        labels = {
            f"{name}/{variant}": (teacher, variant)
            for name, teacher in teachers.items()
            for variant in variant_names(arguments.shares, METHODS)
            if selected(f"{name}/{variant}/{runtime}-{precision}", arguments)
        }
        configuration = {
            "runtime": runtime,
            "precision": precision,
            "texts": arguments.texts,
            "documents": arguments.documents,
        }
        if arguments.texts_file is not None:
            configuration["texts_file"] = arguments.texts_file.name
        if arguments.speed:
            encoders = {
                label: teacher.encoder(teacher.open(variant, runtime, precision))
                for label, (teacher, variant) in labels.items()
            }
            for name, teacher in teachers.items():
                if selected(f"{name}/{STATIC}/numpy-fp32", arguments):
                    encoders[f"{name}/{STATIC}"] = StaticModel(teacher).encode
            if labels:
                documents = documents_of(judged.collection)
                timed = partial(time_in_turns, encoders, documents, "texts", arguments.seed)
                results.run(f"speed/{runtime}-{precision}", timed, {**configuration, "batch_size": BATCH_SIZE})
            continue
        for label, (teacher, variant) in labels.items():
            training = {"training": asdict(teacher.training)} if "-recovered" in variant else {}
            measure = partial(teacher.measure, variant, runtime, precision, judged)
            results.run(f"{label}/{runtime}-{precision}", measure, {**configuration, **training})
    for name, teacher in teachers.items():
        label = f"{name}/{STATIC}/numpy-fp32"
        if not arguments.speed and selected(label, arguments):
            results.run(label, lambda one=teacher: StaticModel(one).measure(judged), {"pca_dims": 256})  # type: ignore[misc]


if __name__ == "__main__":
    main()
