"""Several models compared in one table: latency, throughput, memory and size."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.benchmark.entries import BenchmarkEntry, entry_from_model, open_entry
from bertsurgeon.benchmark.footprint import environment, random_inputs
from bertsurgeon.benchmark.latency import Latency, time_batches
from bertsurgeon.benchmark.memory import measure_memory
from bertsurgeon.calibration import Batch, make_batches
from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.options import check_config, documented, option
from bertsurgeon.tasks import Data, as_dataset, model_inputs

MAX_BATCHES = 16
"""Batches of each size that are drawn from the data."""


@documented
@dataclass(frozen=True)
class BenchmarkConfig:
    """Benchmark options.

    Raises:
        OptionError: If a value is out of range.
    """

    batch_sizes: tuple[int, ...] = option(
        (1, 8, 32),
        "Texts per forward pass: latency is reported for the first size, throughput for the best one.",
        flag="--batch-size",
    )
    length: int = option(128, "Tokens of each random text, used if there is no data.")
    max_length: int | None = option(
        None, "Maximum tokens of each text of the data. Default: that of the task.", cli=False
    )
    runs: int = option(20, "Timed forward passes per model and batch size.")
    seconds: float | None = option(
        10.0, "Time limit per batch size, after at least three runs of each model; in Python, None for no limit."
    )
    threads: int | None = option(None, "Threads of each runtime. Default: all cores.")
    memory: bool = option(
        False,
        "Also measure peak memory, each model in a process of its own; only for models that are passed by name.",
        flag="--memory/--no-memory",
    )
    device: str | None = option(
        None,
        "Where PyTorch models run. Default: those passed by name on the accelerator of the machine, if it has one; "
        "others where they are.",
        cli=False,
    )
    seed: int = option(0, "Seed of the random texts and of the batches drawn from the data.")

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise OptionError(f"Batch sizes must be 1 or greater, not {tuple(self.batch_sizes)}.")
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"The number of threads must be 1 or greater, not {self.threads}.")


@dataclass(frozen=True)
class BenchmarkRow:
    """Measurements of one model.

    Attributes:
        runtime: ``PyTorch``, ``PyTorch compiled``, ``ONNX Runtime`` or ``OpenVINO``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        speedup: Median latency of the first model divided by that of this one, at the first batch size.
        throughput_ratio: Throughput of this model divided by that of the first one.
        p50_ms: Median latency at the first batch size, in milliseconds.
        p95_ms: 95th percentile of the latency at the first batch size, in milliseconds.
        texts_per_second: Throughput at the best batch size.
        best_batch_size: Batch size with the highest throughput.
        batches: Latency at each batch size.
        encoder_weights: Weights of the encoder's matrices.
        flops: Floating-point operations of one text of 128 tokens; None for exported models.
        memory_bytes: Peak memory; None if it was not measured.
        file_bytes: Size of the weight files; None for a model in memory.
    """

    runtime: str
    precision: str
    speedup: float
    throughput_ratio: float
    p50_ms: float
    p95_ms: float
    texts_per_second: float
    best_batch_size: int
    batches: dict[int, Latency]
    encoder_weights: int
    flops: int | None
    memory_bytes: int | None
    file_bytes: int | None


@dataclass(frozen=True)
class BenchmarkReport:
    """Measurements of several models.

    Attributes:
        environment: Machine and package versions, see :func:`environment`.
        batch_sizes: Texts per forward pass.
        length: Tokens of each text, in the longest batch of the first size.
        drawn_from_data: True if the batches were drawn from data, False if they are random.
        models: Measurements by name, in the order of the models.
    """

    environment: dict[str, Any]
    batch_sizes: tuple[int, ...]
    length: int
    drawn_from_data: bool
    models: dict[str, BenchmarkRow]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data."""
        return asdict(self)


def bench(
    models: Mapping[str, PreTrainedModel | str | Path] | Sequence[str | Path],
    config: BenchmarkConfig | None = None,
    data: "Data | None" = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> BenchmarkReport:
    """Times several models in turns, in PyTorch or exported; ratios are relative to the first one.

    Args:
        models: Models, or their folders, by name; or a list of folders (exported ones included), whose paths are their
            names. ``FOLDER@bf16`` and ``FOLDER@compile`` run a PyTorch model in bfloat16, or compiled.
        config: Options; None for the defaults.
        data: Texts that batches are drawn from, see :func:`bertsurgeon.prune`; None for random token ids.
        tokenizer: Tokenizer of the models; needed with ``data``.

    Raises:
        OptionError: If there is nothing to measure, or a model does not accept a batch of this shape.
        DataError: If the data holds fewer texts than a batch.
        BertSurgeonError: If a folder holds no model.

    Example:
        >>> from bertsurgeon import AutoConfig, BenchmarkConfig, Sparsity, bench, prune
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> pruned, _ = prune(model, AutoConfig(Sparsity(0.5)), tokenize(texts, tokenizer), tokenizer)
        >>> config = BenchmarkConfig(batch_sizes=(1,), length=16, runs=3)
        >>> report = bench({"dense": model, "pruned": pruned}, config)
        >>> [round(row.encoder_weights / 16384, 1) for row in report.models.values()]
        [1.0, 0.5]
    """
    check_config(config, BenchmarkConfig, "bench", optional=True, model="the models")
    if not models:
        raise OptionError("There is no model to measure; pass at least one.")
    config = config or BenchmarkConfig()
    by_name: dict[str, Any] = dict(models) if isinstance(models, Mapping) else {str(name): name for name in models}
    entries = {
        name: entry_from_model(model, config.device)
        if isinstance(model, PreTrainedModel)
        else open_entry(str(model), config.threads, config.device)
        for name, model in by_name.items()
    }
    running = {name: entry.model for name, entry in entries.items()}
    batches = _make_batches(list(running.values()), config, data, tokenizer)
    latencies = {
        size: time_batches(running, batches[size], config.runs, seconds=config.seconds) for size in config.batch_sizes
    }
    rows = {}
    for name, entry in entries.items():
        memory = None
        if config.memory and entry.name is not None:
            memory = measure_memory(entry.name, config.batch_sizes[0], config.length, config.device)
        rows[name] = _make_row(name, entry, latencies, memory)
    length = next(iter(latencies[config.batch_sizes[0]].values())).length
    return BenchmarkReport(environment(), tuple(config.batch_sizes), length, data is not None, rows)


def _make_batches(
    models: list[Any], config: BenchmarkConfig, data: "Data | None", tokenizer: PreTrainedTokenizerBase | None
) -> dict[int, list[Batch]]:
    """Returns the batches to time, by their size."""
    if data is None:
        return {size: [random_inputs(models, size, config.length, config.seed)] for size in config.batch_sizes}
    if tokenizer is None:
        raise OptionError("Data was passed without a tokenizer, which pads its batches; pass the models' tokenizer.")
    rows = as_dataset(data, tokenizer, models[0], config.max_length).shuffle(seed=config.seed)
    if len(rows) < max(config.batch_sizes):
        raise DataError(
            f"The data holds {len(rows)} texts, fewer than a batch of {max(config.batch_sizes)}; pass more texts, or "
            "use smaller batches."
        )
    # batch by batch: make_batches sorts by length, which would make the texts of a batch more alike than real ones
    return {
        size: [
            model_inputs(make_batches(rows.select(range(start, start + size)), tokenizer, size, size, 0)[0])
            for start in range(0, min(MAX_BATCHES * size, len(rows) - size + 1), size)
        ]
        for size in config.batch_sizes
    }


def _make_row(
    name: str, entry: BenchmarkEntry, latencies: dict[int, dict[str, Latency]], memory: int | None
) -> BenchmarkRow:
    at_first_size = next(iter(latencies.values()))
    reference = next(iter(at_first_size))
    best_size = max(latencies, key=lambda size: latencies[size][name].throughput)
    throughput = latencies[best_size][name].throughput
    return BenchmarkRow(
        runtime=entry.runtime,
        precision=entry.precision,
        speedup=at_first_size[reference].p50_ms / at_first_size[name].p50_ms,
        throughput_ratio=throughput / max(latency[reference].throughput for latency in latencies.values()),
        p50_ms=at_first_size[name].p50_ms,
        p95_ms=at_first_size[name].p95_ms,
        texts_per_second=throughput,
        best_batch_size=best_size,
        batches={size: latency[name] for size, latency in latencies.items()},
        encoder_weights=entry.encoder_weights,
        flops=entry.flops,
        memory_bytes=memory,
        file_bytes=entry.file_bytes,
    )
