"""all-MiniLM-L6-v2 as an embedder: pruned without labels, recovered on raw text, beside dense INT8.

    python experiments/embedder.py --data-dir ../shared/data/glue

Texts are sentences of SST-2, CoLA, MRPC and RTE, without their labels: of the training parts to calibrate and recover
with, of the development parts to compare neighbors on. STS-B is for the metric alone; none of its texts is used.
``--only auto-0.5 auto-0.25`` selects rows. Speeds are separate rows. Options of recovery are compared with fewer steps,
as variants, whose rows have the variant's name as a prefix:

    python experiments/embedder.py --data-dir ... --only auto-0.5-recovered --variant short-6e-4 --steps 200 ...

with ``--learning-rate 6e-4``, for instance.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    ExportConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    evaluate,
    export,
    load_model,
    open_exported,
    prune,
    save_model,
    train,
)
from bertsurgeon.benchmark import count_flops, measure_sizes, open_entry
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.evaluation import compare
from bertsurgeon.prediction import Predictor
from bertsurgeon.tasks import Task, TaskData, align_to_model, get_task, load_task, task_type_of, tokenize
from bertsurgeon.tasks.data import read_task_files
from bertsurgeon.tasks.table import Layout
from bertsurgeon.workflows import resolve_model
from lib.common import make_parser, parse_arguments, speedups
from lib.results_store import RUNS, ResultsStore

SOURCES = ("sst2", "cola", "mrpc", "rte")
SHARES = (0.5, 0.25)
MILD_SHARES = (0.9, 0.8, 0.7)
"""Shares that are not recovered, to see when the neighbors change."""
SHAPES = ((1, 128), (8, 128))
INT8 = ("dense", "auto-0.5", "auto-0.25")
"""Rows that are also exported to ONNX Runtime, in fp32 and INT8."""


@dataclass
class DenseEmbedder:
    """The dense embedder, its data, and how it is pruned and measured.

    Attributes:
        model: The dense model.
        tokenizer: Its tokenizer.
        texts: Tokenized, to calibrate and recover with.
        held_out: Tokenized, to compare neighbors on.
        pairs: Scored pairs by name, tokenized.
        task: The task of the pairs.
        folder: Folder of the pruned and exported models.
        options: Training options of recovery.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    texts: Dataset
    held_out: Dataset
    pairs: dict[str, Dataset]
    task: Task
    folder: Path
    options: TrainingConfig

    @cached_property
    def calibration(self) -> Calibration:
        """Calibration of the dense model, made once for all shares."""
        return calibrate(self.model, CalibrationConfig(seed=self.options.seed), self.texts, self.tokenizer)

    def config(self, share: float) -> AutoConfig:
        """Returns options that keep this share of the encoder's weights."""
        return AutoConfig(Sparsity(1 - share), seed=self.options.seed)

    def pruned(self, share: float) -> PreTrainedModel:
        """Returns the model pruned to this share without labels; kept on disk."""
        folder = self.folder / f"auto-{share:g}"
        if not folder.is_dir():
            save_model(
                prune(self.model, self.config(share), self.calibration, self.tokenizer)[0], folder, self.tokenizer
            )
        return load_model(folder)

    def recovered(self, share: float) -> PreTrainedModel:
        """Returns the model pruned to this share and recovered on the texts."""
        set_seed(self.options.seed)
        model = self.pruned(share)
        with TemporaryDirectory() as work:
            train(
                model,
                self.options,
                self.texts,
                self.tokenizer,
                teacher=self.model,
                work_dir=Path(work),
                description="Recovering",
            )
        return model

    def exported(self, name: str, precision: str) -> Path:
        """Returns the folder of a model exported to ONNX Runtime; kept on disk."""
        folder = self.folder / f"{name}-onnx-{precision}"
        if not folder.is_dir():
            model = self.model if name == "dense" else self.pruned(float(name.removeprefix("auto-")))
            config = ExportConfig("onnx", precision)  # type: ignore[arg-type]
            export(model, config, self.texts, self.tokenizer, output=folder)
        return folder

    def quality(self, model: Predictor) -> dict[str, float]:
        """Returns the Spearman correlation on both parts of STS-B, and agreement with the dense model's neighbors."""
        correlations = {
            f"stsb_{name}": evaluate(model, self.task, rows, self.tokenizer)["spearman"]
            for name, rows in self.pairs.items()
        }
        return correlations | compare(self.model, model, self.held_out, self.tokenizer)

    def describe(self, model: PreTrainedModel) -> dict[str, Any]:
        """Returns quality and size."""
        return {
            "metrics": self.quality(model),
            "kept_share": measure_sizes(model).encoder_weights / measure_sizes(self.model).encoder_weights,
            "flops_share": count_flops(model, 1, 128) / count_flops(self.model, 1, 128),
        }

    def speed(self, name: str, precision: str) -> dict[str, Any]:
        """Returns the speedup over the dense model in PyTorch by shape; runs are interleaved.

        Args:
            name: Row of the model.
            precision: ``pytorch``, or the precision in ONNX Runtime.
        """
        path = self.folder / name if precision == "pytorch" else self.exported(name, precision)
        model = self.model if (name, precision) == ("dense", "pytorch") else open_entry(str(path)).model
        return {"speedup": speedups(self.model, model, SHAPES)}


def sentences(parts: Iterable[Dataset], count: int, seed: int) -> Dataset:
    """Returns the same number of distinct sentences of each part, without labels, shuffled."""
    chosen = []
    for part in parts:
        distinct = dict.fromkeys(
            text for name in ("text", "text_pair") if name in part.column_names for text in part[name]
        )
        whole = Dataset.from_dict({"text": list(distinct)}).shuffle(seed=seed)
        chosen.append(whole.select(range(min(count, len(whole)))))
    return concatenate_datasets(chosen).shuffle(seed=seed)


def scored_pairs(data_dir: Path) -> dict[str, TaskData]:
    """Returns the development and test parts of STS-B."""
    columns: dict[str, str | int] = {"text": 5, "text_pair": 6, "label": 4}
    task = get_task("stsb")
    test = replace(task, layouts=(Layout("STS-B", "sts-train.csv", "sts-test.csv", columns),))
    return {"dev": load_task("stsb", data_dir), "test": TaskData(task, *read_task_files(test, data_dir))}


def load(arguments: argparse.Namespace) -> DenseEmbedder:
    name = resolve_model("minilm")
    dense, tokenizer = load_model(name), load_tokenizer(name)
    sources = [load_task(source, arguments.data_dir) for source in SOURCES]
    parts = {name: align_to_model(data, dense) for name, data in scored_pairs(arguments.data_dir).items()}
    task_type = task_type_of(dense)

    def encode(rows: Dataset) -> Dataset:
        return tokenize(rows, tokenizer, task_type=task_type)

    return DenseEmbedder(
        dense,
        tokenizer,
        encode(sentences((data.train for data in sources), arguments.texts // len(SOURCES), arguments.seed)),
        encode(sentences((data.validation for data in sources), arguments.held_out // len(SOURCES), arguments.seed)),
        {
            name: encode(data.validation.select(range(min(arguments.pairs, len(data.validation)))))
            for name, data in parts.items()
        },
        parts["dev"].task,
        RUNS / ("embedder" if arguments.variant is None else f"embedder-{arguments.variant}"),
        TrainingConfig(
            epochs=arguments.epochs,
            batch_size=64,
            learning_rate=arguments.learning_rate,
            hidden_weight=arguments.hidden_weight,
            distillation_weight=1.0,
            max_steps=arguments.steps,
            bf16=True,
            seed=arguments.seed,
        ),
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=24_000, help="to calibrate and recover with")
    parser.add_argument("--held-out", type=int, default=2_000, help="to compare neighbors on")
    parser.add_argument("--pairs", type=int, default=10_000, help="scored pairs, at most, of either part")
    parser.add_argument("--epochs", type=float, default=6, help="of recovery")
    parser.add_argument("--steps", type=int, default=-1, help="of recovery, instead")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--hidden-weight", type=float, default=0.0, help="of the teacher's hidden states, in recovery")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="rows to run (default: all)")
    parser.add_argument("--variant", help="prefix of the rows, for other options of recovery")
    arguments = parse_arguments(parser)
    results = ResultsStore("embedder", arguments)
    dense = load(arguments)
    data = {"texts": len(dense.texts), "held_out": len(dense.held_out)}
    rows: dict[str, Callable[[], dict[str, Any]]] = {"dense": lambda: dense.describe(dense.model)}
    for share in (*MILD_SHARES, *SHARES):
        rows[f"auto-{share:g}"] = lambda s=share: dense.describe(dense.pruned(s))  # type: ignore[misc]
    for share in SHARES:
        rows[f"auto-{share:g}-recovered"] = lambda s=share: dense.describe(dense.recovered(s))  # type: ignore[misc]
    for name in INT8:
        rows[f"{name}-int8"] = lambda n=name: {  # type: ignore[misc]
            "metrics": dense.quality(open_exported(dense.exported(n, "int8")))
        }
    for name in INT8:
        for precision in ("pytorch", "fp32", "int8"):
            rows[f"speed-{name}-{precision}"] = lambda n=name, p=precision: dense.speed(n, p)  # type: ignore[misc]
    for name in arguments.only or rows:
        configuration = {**data, "training": asdict(dense.options)} if name.endswith("-recovered") else data
        row = name if arguments.variant is None else f"{arguments.variant}/{name}"
        results.run(row, rows[name], configuration, samples=len(dense.texts))


if __name__ == "__main__":
    main()
