"""The experiments' command line, and measurements that several of them take."""

import argparse
import resource
import tempfile
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from bertsurgeon import PruneReport, progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import compare_latency
from bertsurgeon.checkpoint import save_model
from bertsurgeon.cli.app import silence_libraries

LENGTH = 128
"""Tokens per text of the random batches."""
HEAD_WIDTH = 64
"""Channels per head of the BERT models with random weights."""
BERT_SIZES = {"base": (12, 768), "large": (24, 1024)}
"""Layers and width."""
ZSTD_LEVEL = 3
"""The default of zstd; higher ones take minutes and gain a few percent."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Makes the parser with the option that every experiment has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rerun", metavar="PATTERN", help="measure rows again whose names match, such as 'sst2/*'; others are kept"
    )
    return parser


def make_task_parser(description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of experiments on one fine-tuned model."""
    parser = make_parser(description)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line, and sets up logging, progress and the seed."""
    arguments = parser.parse_args()
    silence_libraries()
    progress.show()
    torch.manual_seed(getattr(arguments, "seed", 0))
    return arguments


def summarize_report(report: PruneReport) -> dict[str, Any]:
    """Returns a report without what the row has elsewhere: configuration and number of samples."""
    return {name: value for name, value in report.to_dict().items() if name not in ("config", "samples")}


def speedups(dense: Any, model: Any, shapes: Iterable[tuple[int, int]]) -> dict[str, float]:
    """Times both models in turns; returns speedups over the dense one by shape (``8x128``: texts and tokens)."""
    ratios = {}
    for batch_size, length in shapes:
        latency = compare_latency({"dense": dense, "this": model}, batch_size, length, runs=20)
        ratios[f"{batch_size}x{length}"] = latency["dense"].p50_ms / latency["this"].p50_ms
    return ratios


def run_in_subprocess(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Calls a function in a new process, so that its peak memory is not that of earlier calls."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory_gib() -> float:
    """Returns the peak memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def random_bert(layers: int, width: int) -> PreTrainedModel:
    """Returns a BERT classifier with random weights, in evaluation mode."""
    sizes = {"num_hidden_layers": layers, "num_attention_heads": width // HEAD_WIDTH, "intermediate_size": 4 * width}
    config = BertConfig(hidden_size=width, num_labels=2, **sizes)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def random_batches(samples: int) -> list[dict[str, Tensor]]:
    """Returns batches of 16 random texts with two classes."""
    ids = torch.randint(1000, 30000, (samples, LENGTH))
    labels = torch.randint(0, 2, (samples,))
    return [
        {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": label}
        for part, label in zip(ids.split(16), labels.split(16), strict=True)
    ]


def measure_file(model: PreTrainedModel) -> dict[str, Any]:
    """Returns the bytes of a model's file, raw and compressed, in total, of encoder matrices and of embeddings."""
    codec = pyarrow.Codec("zstd", compression_level=ZSTD_LEVEL)
    encoder = Encoder(model)
    matrices = tuple(
        f"{encoder.matrix_name(layer, role)}." for layer in range(len(encoder.layers)) for role in encoder.roles
    )

    def sizes(content: bytes) -> dict[str, int]:
        return {"raw": len(content), "zstd": len(codec.compress(content, asbytes=True))}

    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        path = Path(folder) / "model" / "model.safetensors"
        by_part = {"file": sizes(path.read_bytes())}
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for part, chosen in (
                ("encoder", [n for n in names if n.startswith(matrices) and not n.endswith(".bias")]),
                ("embeddings", [n for n in names if "embeddings." in n and "norm" not in n.lower()]),
            ):
                tensors = [file.get_tensor(name).view(-1).view(torch.uint8).numpy().tobytes() for name in chosen]
                by_part[part] = sizes(b"".join(tensors))
    return by_part
