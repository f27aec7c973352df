r"""Embedders on judged queries: what pruning costs all-mpnet-base-v2, beside the small models that replace it.

    python experiments/base_encoder.py
    python experiments/retrieval.py --data-dir ../shared/data/glue --cranfield ../shared/data/cranfield
    python experiments/retrieval.py ... --speed

No labels are used: models are calibrated and recovered on sentences of GLUE's training parts and docstrings of
installed packages, half each, or on the collection's documents as well (`--documents`), as people have those. Queries,
judgements and STS-B only measure. Rows are `MODEL/VARIANT/RUNTIME-PRECISION`, with the metrics of every query, so that
any two rows can be compared; `dense` of MiniLM is what a user would take instead of a pruned base-size model, and
`static` (model2vec, distilled from the same teacher) is the fast end. `--speed` times all variants of a runtime in
turns, from texts to embeddings, and needs an idle machine. `--only 'minilm/auto-0.5/*'` selects rows.

The static model needs model2vec, whose distillation names older versions of transformers than it runs with:
`pip install model2vec && pip install --no-deps 'skeletoken<0.7'`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from scipy.stats import spearmanr
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    ExportConfig,
    LayerDropConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    drop_layers,
    evaluate,
    export,
    load_model,
    open_exported,
    prepare_for_inference,
    prune,
    save_model,
    train,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops, measure_sizes, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.prediction import Predictor
from bertsurgeon.retrieval import evaluate_retrieval
from bertsurgeon.tasks import align_to_model, limit_rows, load_task, read_texts, tokenize
from bertsurgeon.tasks.retrieval import METRICS, Collection, measure_queries, read_collection
from bertsurgeon.tasks.retrieval.measures import mean_percent
from bertsurgeon.tasks.retrieval.ranking import search_blocks
from bertsurgeon.tasks.types import Embedding
from bertsurgeon.workflows import resolve_model
from embedder import SOURCES, scored_pairs, sentences
from lib.common import make_parser, parse_arguments
from lib.models import BASE_ENCODER
from lib.results_store import RUNS, ResultsStore

SHARES = (0.5, 0.25, 0.12)
RUNTIMES = {"pytorch": ("fp32",), "onnx": ("fp32", "int8"), "openvino": ("fp32", "int8")}
STATIC = "static"
FOLDER = RUNS / "retrieval"
BATCH_SIZE, TIMED_BATCHES = 8, 16
"""Texts in a timed batch, and batches of documents of the collection."""


class Teacher:
    """A dense embedder, its unlabeled texts and judged data, and the variants that are made of it; kept on disk."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name, self.arguments = name, arguments
        self.source = str(arguments.base) if name == "mpnet" else resolve_model(name)

    @cached_property
    def dense(self) -> PreTrainedModel:
        """The dense model."""
        return load_model(self.source)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return load_tokenizer(self.source)

    @cached_property
    def texts(self) -> Dataset:
        """Tokenized texts, to calibrate and recover with."""
        return tokenize(unlabeled_texts(self.arguments), self.tokenizer, self.max_length, Embedding())

    @property
    def max_length(self) -> int:
        """Number of tokens at which the model cuts texts."""
        return int(self.dense.max_seq_length)  # type: ignore[operator]

    @cached_property
    def calibration(self) -> Calibration:
        """Calibration for all shares."""
        return calibrate(self.dense, CalibrationConfig(seed=self.arguments.seed), self.texts, self.tokenizer)

    @cached_property
    def training(self) -> TrainingConfig:
        """Options of recovery, the same for pruned models and for those with fewer layers."""
        return TrainingConfig(
            epochs=self.arguments.epochs,
            max_steps=self.arguments.steps,
            batch_size=64,
            learning_rate=self.arguments.learning_rate,
            distillation_weight=1.0,
            bf16=self.arguments.bf16,
            seed=self.arguments.seed,
        )

    def folder(self, variant: str) -> Path:
        """Returns the folder of a variant in PyTorch."""
        return Path(self.source) if variant == "dense" else FOLDER / self.name / variant

    def make(self, variant: str) -> Path:
        """Makes a variant unless it exists: ``dense``, ``auto-SHARE`` or ``drop-SHARE``, and ``-recovered``."""
        folder = self.folder(variant)
        if variant == "dense":
            return folder
        self.check_options(folder, recovered=variant.endswith("-recovered"))
        if folder.is_dir():
            return folder
        method, share, *recovered = variant.split("-")
        if recovered:
            model = load_model(self.make(f"{method}-{share}"))
            self.recover(model)
        elif method == "auto":
            config = AutoConfig(Sparsity(1 - float(share)), seed=self.arguments.seed)
            model = prune(self.dense, config, self.calibration, self.tokenizer).model
        else:
            layers = max(1, round(float(share) * len(Encoder(self.dense).layers)))
            model = drop_layers(self.dense, LayerDropConfig(layers), None, self.tokenizer).model
        save_model(model, folder, self.tokenizer)
        return folder

    def check_options(self, folder: Path, recovered: bool) -> None:
        """Records the options that a kept variant was made with; a run with others ends here."""
        used = self.arguments
        options: dict[str, Any] = {"texts": used.texts, "documents": used.documents, "seed": used.seed}
        options["texts_file"] = None if used.texts_file is None else used.texts_file.name
        options |= asdict(self.training) if recovered else {}
        record = folder.with_name(f"{folder.name}.json")
        if folder.is_dir() and record.is_file() and json.loads(record.read_text()) != options:
            raise SystemExit(f"{folder} was made with other options than these ({record}); remove it to make it again.")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(options))

    def recover(self, model: PreTrainedModel) -> None:
        """Trains a model on the dense one's embeddings."""
        set_seed(self.arguments.seed)
        with TemporaryDirectory() as work:
            train(
                model,
                self.training,
                self.texts,
                self.tokenizer,
                teacher=self.dense,
                work_dir=Path(work),
                description="Recovering",
            )

    def open(self, variant: str, runtime: str, precision: str) -> Predictor:
        """Opens a variant in a runtime; exports are kept."""
        source = self.make(variant)
        if runtime == "pytorch":
            model = load_model(source)
            if variant.startswith("auto"):
                prepare_for_inference(model)
            return model.eval()
        folder = FOLDER / self.name / f"{variant}-{runtime}-{precision}"
        if not folder.is_dir():
            config = ExportConfig(runtime, precision, tolerance=float("inf"))  # type: ignore[arg-type]
            export(load_model(source), config, self.texts, self.tokenizer, output=folder)
        return open_exported(folder)

    def measure(self, variant: str, runtime: str, precision: str, data: "Judged") -> dict[str, Any]:
        """Returns quality and size of a variant."""
        model = self.open(variant, runtime, precision)
        search = evaluate_retrieval(model, None, data.collection, self.tokenizer)
        result: dict[str, Any] = {"metrics": {**search.metrics, **self.correlations(model, data)}}
        result["by_query"] = {name: [round(v, 6) for v in values.tolist()] for name, values in search.by_query.items()}
        in_pytorch = load_model(self.make(variant))
        sizes = measure_sizes(in_pytorch)
        result["encoder_weights"], result["parameters"] = sizes.encoder_weights, sizes.parameters
        result["flops"] = count_flops(in_pytorch, 1, 128)
        return result

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
        names = self.tokenizer.model_input_names

        def encode(texts: list[str]) -> Any:
            batch = self.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            return model(**{name: batch[name] for name in names if name in batch}).sentence_embedding

        return encode


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
        return {"metrics": metrics, "by_query": {name: values.tolist() for name, values in by_query.items()}}


class Judged:
    """What models are measured on: a collection with judgements, and scored pairs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.collection: Collection = read_collection(arguments.cranfield)
        pairs = scored_pairs(arguments.data_dir)
        self.pairs = {name: limit_rows(data, train=1, validation=arguments.pairs) for name, data in pairs.items()}


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
        documents = read_collection(arguments.cranfield).documents.values()
        texts.append(Dataset.from_dict({"text": [text for text in documents if text]}))
    return concatenate_datasets(texts).shuffle(seed=seed)


def speed(variants: dict[str, Callable[[list[str]], Any]], collection: Collection, seed: int) -> dict[str, Any]:
    """Times all variants of a runtime in turns on the same documents."""
    texts = [text for text in collection.documents.values() if text]
    chosen = np.random.default_rng(seed).choice(len(texts), BATCH_SIZE * TIMED_BATCHES, replace=False)
    groups = [[texts[number] for number in part] for part in chosen.reshape(TIMED_BATCHES, BATCH_SIZE)]

    def on_group(encode: Callable[[list[str]], Any]) -> Callable[..., Any]:
        return lambda input_ids: encode(groups[int(input_ids[0, 0])])

    # a batch is the number of a group, as models have different tokenizers
    batches = [{"input_ids": torch.full((BATCH_SIZE, 1), group)} for group in range(TIMED_BATCHES)]
    models = {name: on_group(encode) for name, encode in variants.items()}
    latencies = time_batches(models, batches, runs=3 * TIMED_BATCHES, seconds=60.0 * len(models))
    return {
        "models": {name: {"p50_ms": one.p50_ms, "texts_per_second": one.throughput} for name, one in latencies.items()}
    }


def variants_of(arguments: argparse.Namespace) -> list[str]:
    """Returns the names of the variants of a model."""
    return [
        "dense",
        *(
            f"{name}-{share:g}{end}"
            for share in arguments.shares
            for name, end in (("auto", ""), ("auto", "-recovered"), ("drop", "-recovered"))
        ),
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of GLUE")
    parser.add_argument("--cranfield", type=Path, required=True)
    parser.add_argument("--documents", action="store_true", help="calibrate and recover on the documents as well")
    parser.add_argument("--texts-file", type=Path, help="texts to calibrate and recover with, instead")
    parser.add_argument("--base", type=Path, default=BASE_ENCODER, help="folder of all-mpnet-base-v2")
    parser.add_argument("--models", nargs="*", default=["mpnet", "minilm"])
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES), help="shares of the encoder kept")
    parser.add_argument("--texts", type=int, default=24_000, help="to calibrate and recover with")
    parser.add_argument("--pairs", type=int, default=10_000, help="scored pairs, at most, of either part")
    parser.add_argument("--epochs", type=float, default=3, help="of recovery")
    parser.add_argument("--steps", type=int, default=-1, help="of recovery, instead")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--bf16", action="store_true", help="recover in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of rows, such as 'minilm/dense/*'")
    parser.add_argument("--speed", action="store_true", help="time the models instead; needs an idle machine")
    arguments = parse_arguments(parser)
    results = ResultsStore("retrieval", arguments)
    teachers = {name: Teacher(name, arguments) for name in arguments.models}
    judged = Judged(arguments)

    def selected(label: str) -> bool:
        return any(fnmatch(label, pattern) for pattern in arguments.only)

    for runtime, precisions in RUNTIMES.items():
        for precision in precisions:
            labels = {
                f"{name}/{variant}": (teacher, variant)
                for name, teacher in teachers.items()
                for variant in variants_of(arguments)
                if selected(f"{name}/{variant}/{runtime}-{precision}")
            }
            configuration = {
                "runtime": runtime,
                "precision": precision,
                "texts": arguments.texts,
                "documents": arguments.documents,
            }
            if arguments.speed:
                encoders = {
                    label: teacher.encoder(teacher.open(variant, runtime, precision))
                    for label, (teacher, variant) in labels.items()
                }
                for name, teacher in teachers.items():
                    if selected(f"{name}/{STATIC}/numpy-fp32"):
                        encoders[f"{name}/{STATIC}"] = StaticModel(teacher).encode
                if labels:
                    timed = partial(speed, encoders, judged.collection, arguments.seed)
                    results.run(f"speed/{runtime}-{precision}", timed, {**configuration, "batch_size": BATCH_SIZE})
                continue
            for label, (teacher, variant) in labels.items():
                training = {"training": asdict(teacher.training)} if variant.endswith("-recovered") else {}
                measure = partial(teacher.measure, variant, runtime, precision, judged)
                results.run(f"{label}/{runtime}-{precision}", measure, {**configuration, **training})
    for name, teacher in teachers.items():
        label = f"{name}/{STATIC}/numpy-fp32"
        if not arguments.speed and selected(label):
            results.run(label, lambda one=teacher: StaticModel(one).measure(judged), {"pca_dims": 256})  # type: ignore[misc]


if __name__ == "__main__":
    main()
