r"""The base-size study: all-mpnet-base-v2 fine-tuned on six tasks, pruned by every method, one-shot and recovered.

    python experiments/base_encoder.py
    python experiments/base_study.py --data-dir ../shared/data/glue --banking ../shared/data/banking77
    python experiments/base_study.py --data-dir ../shared/data/glue --tasks cola --rows dense 'auto-*'

On CPUs a task takes hours, on a GPU minutes; rows name the machine. The learning rate of each dense model is chosen on
a tenth of its training data. Everything else has the defaults of the commands, with `--bf16` for training. Of SST-2's
67,349 training phrases, parts of 6,920 sentences, 20,000 are used.

The models of all rows are kept under `runs/base`, to be exported and timed.

Rows, by task: `chosen` (scores of the learning rates), `dense`, `auto-SHARE` and `auto-SHARE-recovered` (SHARE of the
encoder is kept), `calibration-SEED-SHARE` (`auto` with other calibration texts), `layers-COUNT` (the first layers,
fine-tuned with the dense model as teacher, as long as it, at the rate that recovery chooses by default), `minilm`
(all-MiniLM-L6-v2, fine-tuned for five epochs at its best rate),
`pgb-SHARE` and `pgb-published-SHARE` (our compensation and recovery, and those of the paper), `obert-ZEROS`.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    LayerDropConfig,
    ObertConfig,
    PgbConfig,
    PruneConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    drop_layers,
    evaluate,
    load_model,
    prune,
    save_model,
    train,
)
from bertsurgeon.benchmark import count_flops, measure_sizes
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.devices import choose_device, move
from bertsurgeon.evaluation import compare
from bertsurgeon.recovery import recover_with_report
from bertsurgeon.tasks import Task, TaskData, limit_rows, load_task, load_user_task, tokenize
from bertsurgeon.workflows.inputs import MINILM, resolve_model
from bertsurgeon.workflows.train_and_save import load_for_finetuning
from lib.common import make_parser, parse_arguments
from lib.models import BASE_ENCODER
from lib.results_store import RUNS, ResultsStore

SHARES = (0.5, 0.25, 0.12, 0.06, 0.03)
LAYERS = (6, 4, 3)
ZEROS = (0.8, 0.9)
PGB_SHARES = (0.5, 0.12)
SEEDS = (1, 2)
"""Of the calibration, beside 0."""
SST2_ROWS = 20_000


@dataclass(frozen=True)
class Recipe:
    """How a task's dense model is fine-tuned: epochs, and the learning rates to choose from."""

    epochs: float
    rates: tuple[float, ...]


TASKS = {
    "cola": Recipe(3, (2e-5, 5e-5)),
    "mrpc": Recipe(4, (2e-5, 5e-5)),
    "rte": Recipe(5, (2e-5, 5e-5)),
    "stsb": Recipe(4, (2e-5, 5e-5)),
    "banking77": Recipe(5, (5e-5, 1e-4)),
    "sst2": Recipe(2, (2e-5,)),
}

SMALL_EPOCHS = 5
SMALL_RATES = {"cola": 5e-5, "mrpc": 5e-5, "rte": 5e-5, "stsb": 1e-4, "banking77": 1e-4, "sst2": 5e-5}
"""Of MiniLM: the best on held-out training data in `finetune.py`, as far as it has the task."""


@dataclass
class BaseTask:
    """One task of the study: its data and its dense model."""

    name: str
    data: TaskData
    encoder: str
    recipe: Recipe
    seed: int

    @property
    def task(self) -> Task:
        """The task."""
        return self.data.task

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The encoder's tokenizer."""
        return load_tokenizer(self.encoder)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase | None = None) -> Dataset:
        """Tokenizes rows."""
        return tokenize(rows, tokenizer or self.tokenizer, None, self.task.type)

    @cached_property
    def training(self) -> Dataset:
        """Training rows, tokenized."""
        return self.encode(self.data.train)

    @cached_property
    def validation(self) -> Dataset:
        """Validation rows, tokenized."""
        return self.encode(self.data.validation)

    @cached_property
    def folder(self) -> Path:
        """Where the dense model is kept."""
        return self.folder_of("dense")

    def folder_of(self, row: str) -> Path:
        """Where the model of a row is kept."""
        return RUNS / "base" / f"{self.name}-{self.seed}" / row

    @cached_property
    def dense(self) -> PreTrainedModel:
        """The dense model, on the device where everything is computed."""
        return move(load_model(self.folder), choose_device())

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration that all shares use."""
        return self.calibrate(self.seed)

    def calibrate(self, seed: int) -> Calibration:
        """Calibrates on training texts without their labels."""
        return calibrate(self.dense, CalibrationConfig(seed=seed), self.training, self.tokenizer)

    def finetune(self, rate: float, rows: Dataset | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Fine-tunes the encoder on all training rows, or on some."""
        set_seed(self.seed)
        model, tokenizer = load_for_finetuning(self.encoder, self.data)
        nn.Module.float(model)
        config = TrainingConfig(epochs=self.recipe.epochs, learning_rate=rate, bf16=True, seed=self.seed)
        train(model, config, self.encode(self.data.train if rows is None else rows, tokenizer), tokenizer)
        return model, tokenizer

    def score(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, Any]:
        """Returns the metrics, the agreement with the dense model, and the sizes of a model."""
        rows = self.validation if tokenizer is None else self.encode(self.data.validation, tokenizer)
        result: dict[str, Any] = {
            "metrics": evaluate(model, self.task, rows, tokenizer or self.tokenizer),
            "encoder_weights": measure_sizes(model).encoder_weights,
            "flops": count_flops(model, 1, 128),
        }
        if tokenizer is None:
            result["agreement"] = compare(self.dense, model, rows, self.tokenizer)
        return result


def choose(task: BaseTask) -> dict[str, Any]:
    """Scores each learning rate on a tenth of the training data; a single one is not scored."""
    if len(task.recipe.rates) == 1:
        return {"scores": {}, "rate": task.recipe.rates[0]}
    parts = task.data.train.train_test_split(test_size=0.1, seed=task.seed)
    scores = {}
    for rate in task.recipe.rates:
        model, tokenizer = task.finetune(rate, parts["train"])
        metrics = evaluate(model, task.task, task.encode(parts["test"], tokenizer), tokenizer)
        scores[f"{rate:g}"] = next(iter(metrics.values()))
    return {"scores": scores, "rate": float(max(scores, key=lambda rate: scores[rate]))}


def make_dense(task: BaseTask, rate: float) -> dict[str, Any]:
    model, tokenizer = task.finetune(rate)
    save_model(model, task.folder, tokenizer, overwrite=True)
    return task.score(task.dense)


Made = tuple[PreTrainedModel, dict[str, Any]]
"""A model and what was measured while it was made."""


def prune_auto(task: BaseTask, share: float, seed: int | None = None) -> Made:
    calibration = task.calibration if seed is None else task.calibrate(seed)
    config = AutoConfig(Sparsity(1 - share), seed=task.seed if seed is None else seed)
    model, report = prune(task.dense, config, calibration)
    return model, {"pruning_seconds": report.seconds, "samples": report.samples}


def prune_and_recover(task: BaseTask, share: float) -> Made:
    """Recovers the one-shot model of the same share, which is pruned first if it is not kept."""
    one_shot = task.folder_of(f"auto-{share:g}")
    model, measured = (load_model(one_shot), {}) if one_shot.is_dir() else prune_auto(task, share)
    return recover_it(task, move(model, choose_device()), measured, True)


def recover_it(task: BaseTask, model: PreTrainedModel, measured: dict[str, Any], distill: bool) -> Made:
    start = time.perf_counter()
    config = TrainingConfig(bf16=True, seed=task.seed)
    teacher = task.dense if distill else None
    report = recover_with_report(model, config, task.training, task.tokenizer, teacher=teacher)
    measured |= {"learning_rate": report.learning_rate, "recovery_seconds": time.perf_counter() - start}
    return model, measured


def other_method(task: BaseTask, config: PruneConfig, distill: bool) -> Made:
    """Prunes by another method, scores it, and recovers it."""
    model, report = prune(task.dense, config, task.training, task.tokenizer)
    measured = {
        "before_recovery": task.score(model)["metrics"],
        "pruning_seconds": report.seconds,
        "samples": report.samples,
    }
    return recover_it(task, model, measured, distill)


def first_layers(task: BaseTask, count: int) -> Made:
    model = drop_layers(task.dense, LayerDropConfig(count, "first")).model
    config = TrainingConfig(epochs=task.recipe.epochs, bf16=True, seed=task.seed)
    report = train(model, config, task.training, task.tokenizer, teacher=task.dense)
    return model, {"learning_rate": report.learning_rate}


def small_encoder(task: BaseTask, encoder: str) -> Made:
    rate = SMALL_RATES[task.name]
    small = replace(task, encoder=encoder, recipe=replace(task.recipe, epochs=SMALL_EPOCHS))
    model, _ = small.finetune(rate)
    return model, {"learning_rate": rate, "epochs": SMALL_EPOCHS}


def make_and_score(task: BaseTask, row: str, make: Callable[[], Made], minilm: str) -> dict[str, Any]:
    """Makes the model of a row, keeps it beside the dense one, and scores it."""
    model, measured = make()
    tokenizer = load_tokenizer(minilm) if row == "minilm" else None
    save_model(model, task.folder_of(row), tokenizer or task.tokenizer, overwrite=True)
    return {**task.score(model, tokenizer), **measured}


def rows_of(task: BaseTask, minilm: str) -> dict[str, Callable[[], Made]]:
    """Returns what makes the models after the dense one, in the order in which they are made."""
    rows: dict[str, Callable[[], Made]] = {}
    rows |= {f"auto-{share:g}": partial(prune_auto, task, share) for share in SHARES}
    rows |= {f"auto-{share:g}-recovered": partial(prune_and_recover, task, share) for share in (0.12, 0.25, 0.06)}
    rows |= {f"layers-{count}": partial(first_layers, task, count) for count in LAYERS}
    for share in PGB_SHARES:
        pgb = PgbConfig(Sparsity(1 - share), seed=task.seed)
        rows[f"pgb-{share:g}"] = partial(other_method, task, pgb, True)
        published = replace(pgb, compensation="independent")
        rows[f"pgb-published-{share:g}"] = partial(other_method, task, published, False)
    for zeros in ZEROS:
        rows[f"obert-{zeros:g}"] = partial(other_method, task, ObertConfig(Sparsity(zeros), seed=task.seed), True)
    rows |= {f"auto-{share:g}-recovered": partial(prune_and_recover, task, share) for share in (0.5, 0.03)}
    for seed in SEEDS:
        rows |= {f"calibration-{seed}-{share:g}": partial(prune_auto, task, share, seed) for share in (0.25, 0.12)}
    rows["minilm"] = lambda: small_encoder(task, minilm)
    return rows


def load_data(name: str, data_dir: Path, banking: Path | None) -> TaskData:
    if name != "banking77":
        data = load_task(name, data_dir)
        return limit_rows(data, train=SST2_ROWS) if name == "sst2" else data
    if banking is None:
        raise SystemExit("Name the folder of Banking77's files: --banking FOLDER")
    return load_user_task(banking / "train.csv", banking / "test.csv", label_column="category")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which dense models are meant."""
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--banking", type=Path)
    parser.add_argument("--encoder", type=Path, default=BASE_ENCODER)
    parser.add_argument("--tasks", nargs="*", default=tuple(TASKS), choices=tuple(TASKS))
    parser.add_argument("--seed", type=int, default=0)


def open_task(name: str, arguments: argparse.Namespace) -> BaseTask:
    """Returns a task of the study with its data."""
    data = load_data(name, arguments.data_dir, arguments.banking)
    return BaseTask(name, data, str(arguments.encoder), TASKS[name], arguments.seed)


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--rate", type=float, help="learning rate of dense models, instead of choosing it")
    parser.add_argument("--epochs", type=float, help="of dense models, instead of the task's")
    parser.add_argument("--minilm", help="folder of all-MiniLM-L6-v2, if its package is not installed")
    parser.add_argument("--rows", nargs="*", default=("*",), help="patterns of rows after the dense model's")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no new row after so long")
    arguments = parse_arguments(parser)
    minilm = arguments.minilm or resolve_model(MINILM)
    start = time.perf_counter()
    for name in arguments.tasks:
        results = ResultsStore("base_study", arguments)
        task = open_task(name, arguments)
        if arguments.rate is not None:
            task = replace(task, recipe=replace(task.recipe, rates=(arguments.rate,)))
        if arguments.epochs is not None:
            task = replace(task, recipe=replace(task.recipe, epochs=arguments.epochs))
        configuration = {
            "task": name,
            "encoder": arguments.encoder.name,
            "training_rows": len(task.data.train),
            "epochs": task.recipe.epochs,
        }
        chosen = results.run(f"{name}/chosen", partial(choose, task), configuration)
        results.run(f"{name}/dense", partial(make_dense, task, chosen["rate"]), configuration)
        if not task.folder.is_dir():
            raise SystemExit(f"The dense model of {name} is not on this machine; measure all of it: --rerun '{name}/*'")
        for row, make in rows_of(task, minilm).items():
            if not any(fnmatch(row, pattern) for pattern in arguments.rows):
                continue
            if time.perf_counter() - start > arguments.seconds:
                break
            results.run(f"{name}/{row}", partial(make_and_score, task, row, make, minilm), configuration)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
