"""How much smaller a model's file gets by zeros, INT8 weights, INT8 embeddings, and zstd.

    python experiments/sizes.py                                  # BERT-base's shape, random weights, 90 % zeros
    python experiments/sizes.py --model runs/minilm-sst2-sparse  # another model; existing zeros are kept

Every step is a file that the library writes and reads. A model without zeros is pruned by magnitude: only sizes are
measured, not quality.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from bertsurgeon import ObertConfig, Sparsity, is_sparse, prune, to_dense
from bertsurgeon.checkpoint import load_as_saved
from bertsurgeon.layers import round_rows
from bertsurgeon.layers.masks import encoder_weights, masks_of, sparsity_of
from bertsurgeon.workflows import resolve_model
from lib.common import ZSTD_LEVEL, make_parser, measure_file, parse_arguments
from lib.results_store import ResultsStore

DUMMY_BATCHES = [{"input_ids": torch.zeros(1, 1, dtype=torch.long)}]
"""Magnitude pruning does not depend on data."""


def with_zeros(model: PreTrainedModel, sparsity: float, pattern: str) -> PreTrainedModel:
    """Returns the model itself if it is sparse, else a sparse copy."""
    if is_sparse(model):
        return model
    config = ObertConfig(
        Sparsity(sparsity), score="magnitude", pattern=pattern, mask_scope="matrix", compensation="none"
    )
    return prune(model, config, DUMMY_BATCHES)[0]


@torch.no_grad()
def round_matrices(model: PreTrainedModel) -> None:
    for weight in encoder_weights(model).values():
        weight.copy_(round_rows(weight))


@torch.no_grad()
def round_embeddings(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(round_rows(module.weight))


def measure(model: PreTrainedModel, sparsity: float, pattern: str) -> dict[str, Any]:
    rows = {"dense": measure_file(to_dense(model) if is_sparse(model) else model)}
    sparse = with_zeros(model, sparsity, pattern)
    share = sparsity_of(masks_of(sparse))
    steps: dict[str, Callable[[PreTrainedModel], None] | None] = {
        "zeros": None,
        "matrices in INT8": round_matrices,
        "embeddings in INT8": round_embeddings,
    }
    for title, step in steps.items():
        if step is not None:
            step(sparse)
        rows[title] = measure_file(sparse)
    return {"sparsity": share, "rows": rows}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", help="folder of a model, or minilm; default: BERT-base's shape with random weights")
    parser.add_argument("--sparsity", type=float, default=0.9, help="for models without zeros")
    parser.add_argument("--pattern", default="unstructured", help="of the zeros, for models without zeros")
    arguments = parse_arguments(parser)
    results = ResultsStore("sizes", arguments)

    def load() -> PreTrainedModel:
        if arguments.model is not None:
            return load_as_saved(resolve_model(arguments.model))
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(BertConfig())
        return model

    name = "bert-base" if arguments.model is None else Path(arguments.model).name
    results.run(
        f"{name}-{arguments.pattern.replace(':', 'of')}-{arguments.sparsity:g}",
        lambda: measure(load(), arguments.sparsity, arguments.pattern),
        {"model": name, "pattern": arguments.pattern, "level": ZSTD_LEVEL},
        seed=0,
    )


if __name__ == "__main__":
    main()
