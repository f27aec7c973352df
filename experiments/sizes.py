"""What makes a model's file smaller, and by how much: zeros, bytes for weights, bytes for embeddings, and zstd.

    python experiments/sizes.py                                  # BERT-base's shape, random weights, 90 % zeros
    python experiments/sizes.py --model runs/minilm-sst2-sparse  # a model of one's own; its zeros stay what they are

Every row is a file that the library writes and reads. A model without zeros gets them by magnitude: this is about
sizes, not about quality. Finished ones are kept as JSON and not run again.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from bertsurgeon import PruneConfig, is_sparse, progress, prune, to_dense
from bertsurgeon.architectures import get_architecture
from bertsurgeon.checkpoint import load_as_saved, save_model
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.cli.sources import resolve_model
from bertsurgeon.layers import round_rows
from bertsurgeon.second_order import encoder_weights, masks_of, sparsity_of
from common import cached

LEVEL = 3
"""Of zstd, its default; higher ones take minutes and gain a few percent."""

ANYTHING = [{"input_ids": torch.zeros(1, 1, dtype=torch.long)}]
"""Magnitudes look at no data."""


def with_zeros(model: PreTrainedModel, sparsity: float, pattern: str) -> PreTrainedModel:
    """A model with zeros: as it is, if it has some."""
    if is_sparse(model):
        return model
    config = PruneConfig(
        method="obert",
        score="magnitude",
        sparsity=sparsity,
        pattern=pattern,
        mask_scope="matrix",
        compensation="none",
    )
    return prune(model, ANYTHING, config)[0]


@torch.no_grad()
def round_matrices(model: PreTrainedModel) -> None:
    for weight in encoder_weights(model, get_architecture(model.config.model_type)).values():
        weight.copy_(round_rows(weight))


@torch.no_grad()
def round_embeddings(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(round_rows(module.weight))


def account(model: PreTrainedModel) -> dict[str, Any]:
    """Bytes of a model's file, as they are and compressed, in all and by what they are for."""
    codec = pyarrow.Codec("zstd", compression_level=LEVEL)
    architecture = get_architecture(model.config.model_type)
    matrices = tuple(
        f"{architecture.matrix_name(model, layer, role)}."
        for layer in range(len(architecture.layers(model)))
        for role in architecture.matrices
    )
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        path = Path(folder) / "model" / "model.safetensors"
        content = path.read_bytes()
        found["file"] = {"raw": len(content), "zstd": len(codec.compress(content, asbytes=True))}
        del content
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for part, chosen in (
                ("encoder", [n for n in names if n.startswith(matrices) and not n.endswith(".bias")]),
                ("embeddings", [n for n in names if "embeddings." in n and "norm" not in n.lower()]),
            ):
                tensors = [file.get_tensor(name).view(-1).view(torch.uint8).numpy().tobytes() for name in chosen]
                joined = b"".join(tensors)
                found[part] = {"raw": len(joined), "zstd": len(codec.compress(joined, asbytes=True))}
    return found


def measure(name: str, model: PreTrainedModel, sparsity: float, pattern: str) -> dict[str, Any]:
    rows = {"dense": account(to_dense(model) if is_sparse(model) else model)}
    sparse = with_zeros(model, sparsity, pattern)
    share = sparsity_of(masks_of(sparse, get_architecture(sparse.config.model_type)))
    steps: dict[str, Callable[[PreTrainedModel], None] | None] = {
        "zeros": None,
        "matrices in INT8": round_matrices,
        "embeddings in INT8": round_embeddings,
    }
    for title, step in steps.items():
        if step is not None:
            step(sparse)
        rows[title] = account(sparse)
    return {"model": name, "sparsity": share, "pattern": pattern, "level": LEVEL, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a model, or minilm; default: BERT-base's shape with random weights")
    parser.add_argument("--sparsity", type=float, default=0.9, help="for models without zeros")
    parser.add_argument("--pattern", default="unstructured", help="likewise")
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    torch.manual_seed(0)

    def load() -> PreTrainedModel:
        if arguments.model is not None:
            return load_as_saved(resolve_model(arguments.model))
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(BertConfig())
        return model

    name = "bert-base" if arguments.model is None else Path(arguments.model).name
    cached(
        f"sizes/{name}-{arguments.pattern.replace(':', 'of')}-{arguments.sparsity:g}",
        lambda: measure(name, load(), arguments.sparsity, arguments.pattern),
    )


if __name__ == "__main__":
    main()
