"""A dense model and what is made of it: pruned, with fewer layers, recovered, exported; kept with their options."""

import argparse
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
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
from bertsurgeon.recovery import EmbeddingRefit
from lib.common import make_parser

SHARES = (0.5, 0.25, 0.12)
RUNTIMES = {"pytorch": ("fp32",), "onnx": ("fp32", "int8"), "openvino": ("fp32", "int8")}
"""Runtimes and their precisions."""
BATCH_SIZE, TIMED_BATCHES = 8, 16
"""Inputs in a timed batch, and batches."""


class Variants(ABC):
    """A dense model, texts without labels, and the variants that are made with them.

    Args:
        source: Folder of the dense model.
        folder: Where variants are kept, each with the options it was made with.
        training: Options of recovery, the same for pruned models and for those with fewer layers.
        options: What else decides how a variant turns out.
    """

    def __init__(self, source: str, folder: Path, training: TrainingConfig, options: dict[str, Any]) -> None:
        self.source, self.folder, self.training, self.options = source, folder, training, options

    @abstractmethod
    def load_texts(self) -> Dataset:
        """Loads and tokenizes the texts to calibrate and recover with."""

    @cached_property
    def texts(self) -> Dataset:
        """These texts."""
        return self.load_texts()

    def load_refit_texts(self) -> Dataset:
        """Loads the texts that embeddings are refit on: by default those of the calibration."""
        return self.texts

    @cached_property
    def refit(self) -> EmbeddingRefit:
        """The refit of all variants, for which the dense model runs once."""
        return EmbeddingRefit(self.dense, self.load_refit_texts(), self.tokenizer, seed=self.training.seed)

    @cached_property
    def dense(self) -> PreTrainedModel:
        """The dense model."""
        return load_model(self.source)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return load_tokenizer(self.source)

    @cached_property
    def calibration(self) -> Calibration:
        """Calibration for all shares."""
        return calibrate(self.dense, CalibrationConfig(seed=self.training.seed), self.texts, self.tokenizer)

    def make(self, variant: str) -> Path:
        """Makes a variant unless it exists: ``dense``, ``auto-SHARE`` or ``drop-SHARE``, ``-recovered``, ``-refit``."""
        if variant == "dense":
            return Path(self.source)
        folder = self.folder / variant
        self._check_options(folder, recovered="-recovered" in variant)
        if folder.is_dir():
            return folder
        method, share, *recovered = variant.split("-")
        if variant.endswith("-refit"):
            model = load_model(self.make(variant.removesuffix("-refit")))
            self.refit.apply(model)
        elif recovered:
            model = load_model(self.make(f"{method}-{share}"))
            self._recover(model)
        elif method == "auto":
            config = AutoConfig(Sparsity(1 - float(share)), seed=self.training.seed)
            model = prune(self.dense, config, self.calibration, self.tokenizer).model
        else:
            layers = max(1, round(float(share) * len(Encoder(self.dense).layers)))
            model = drop_layers(self.dense, LayerDropConfig(layers), None, self.tokenizer).model
        save_model(model, folder, self.tokenizer)
        return folder

    def _check_options(self, folder: Path, recovered: bool) -> None:
        """Records the options that a kept variant was made with; a run with others ends here."""
        options = self.options | (asdict(self.training) if recovered else {})
        record = folder.with_name(f"{folder.name}.json")
        if folder.is_dir() and record.is_file() and json.loads(record.read_text()) != options:
            raise SystemExit(f"{folder} was made with other options than these ({record}); remove it to make it again.")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(options))

    def _recover(self, model: PreTrainedModel) -> None:
        """Trains a model on the dense one's outputs."""
        set_seed(self.training.seed)
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
        folder = self.folder / f"{variant}-{runtime}-{precision}"
        if not folder.is_dir():
            config = ExportConfig(runtime, precision, tolerance=float("inf"))  # type: ignore[arg-type]
            export(load_model(source), config, self.texts, self.tokenizer, output=folder)
        return open_exported(folder)

    def sizes(self, variant: str) -> dict[str, Any]:
        """Returns the numbers of weights and of operations of a variant."""
        model = load_model(self.make(variant))
        sizes = measure_sizes(model)
        return {
            "encoder_weights": sizes.encoder_weights,
            "parameters": sizes.parameters,
            "flops": count_flops(model, 1, 128),
        }


def make_variants_parser(description: str | None, learning_rate: float) -> argparse.ArgumentParser:
    """Makes the parser of a study of variants on a collection."""
    parser = make_parser(description)
    parser.add_argument("--cranfield", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES), help="shares of the encoder kept")
    parser.add_argument("--epochs", type=float, default=3, help="of recovery")
    parser.add_argument("--steps", type=int, default=-1, help="of recovery, instead")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help="of recovery")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of rows, such as 'dense/*'")
    parser.add_argument("--speed", action="store_true", help="time the models instead; needs an idle machine")
    return parser


def recovery_options(arguments: argparse.Namespace, batch_size: int) -> TrainingConfig:
    """Returns the options of recovery on a command line."""
    return TrainingConfig(
        epochs=arguments.epochs,
        max_steps=arguments.steps,
        batch_size=batch_size,
        learning_rate=arguments.learning_rate,
        distillation_weight=1.0,
        bf16=arguments.bf16,
        seed=arguments.seed,
    )


def variant_names(shares: Sequence[float], methods: Sequence[str]) -> list[str]:
    """Returns the names of variants: the dense model, and those of each share by these methods."""
    return ["dense", *(method.format(share) for share in shares for method in methods)]


def selected(row: str, arguments: argparse.Namespace) -> bool:
    """Returns True if a row was asked for."""
    return any(fnmatch(row, pattern) for pattern in arguments.only)


def runtimes() -> Iterator[tuple[str, str]]:
    """Returns all runtimes with each of their precisions."""
    return ((runtime, precision) for runtime, precisions in RUNTIMES.items() for precision in precisions)


def rounded(by_query: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    """Returns metrics by query as they are kept in a row."""
    return {name: [round(value, 6) for value in values.tolist()] for name, values in by_query.items()}


def with_tokenizer(
    model: Predictor, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[Sequence[Any]], Any]:
    """Returns a function from texts, or pairs of texts, to the outputs of a model."""
    names = tokenizer.model_input_names

    def run(texts: Sequence[Any]) -> Any:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        return model(**{name: batch[name] for name in names if name in batch})

    return run


def time_in_turns(
    models: Mapping[str, Callable[[list[Any]], Any]], inputs: Sequence[Any], unit: str, seed: int
) -> dict[str, Any]:
    """Times models in turns on the same batches of texts, or of pairs; ``unit`` names what is counted."""
    chosen = np.random.default_rng(seed).choice(len(inputs), BATCH_SIZE * TIMED_BATCHES, replace=False)
    groups = [[inputs[number] for number in part] for part in chosen.reshape(TIMED_BATCHES, BATCH_SIZE)]

    def on_group(run: Callable[[list[Any]], Any]) -> Callable[..., Any]:
        return lambda input_ids: run(groups[int(input_ids[0, 0])])

    # a batch is the number of a group, as models have different tokenizers
    batches = [{"input_ids": torch.full((BATCH_SIZE, 1), group)} for group in range(TIMED_BATCHES)]
    timed = {name: on_group(run) for name, run in models.items()}
    latencies = time_batches(timed, batches, runs=3 * TIMED_BATCHES, seconds=60.0 * len(timed))
    return {
        "models": {
            name: {"p50_ms": one.p50_ms, f"{unit}_per_second": one.throughput} for name, one in latencies.items()
        }
    }
