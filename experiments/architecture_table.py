"""Prunes half of each architecture with each kind of head, saves, reloads and exports it, and compares the outputs.

    python experiments/architecture_table.py

Models are tiny and random, those of the tests. A row is one architecture with one kind of head. ``make_docs.py`` puts
the table into ``docs/adding-an-architecture.md``.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import Sparsity, prune
from bertsurgeon.architectures import ARCHITECTURES
from bertsurgeon.checkpoint import load_embedder, load_model
from bertsurgeon.embedder import Embedder
from bertsurgeon.exporting.lowering import Graph, lower
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.verify import compare, reference, run_session
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.runtime import open_session
from bertsurgeon.testing import toy_classifier
from lib.architecture_tables import CONFIGS, HEADS, find_class, make_batches, make_model
from lib.common import make_parser, parse_arguments
from lib.results_store import ResultsStore

TOLERANCE = 1e-4
"""Largest error of an output, as a share of the outputs' standard deviation."""


def make_model_with_head(auto: Any, name: str, version: int, head: str) -> PreTrainedModel:
    """Returns a tiny model with this head; embedders are encoders with mean pooling by sentence-transformers."""
    model = make_model(auto, name, version, **HEADS[head][1])
    if head != "embeddings":
        return model
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        toy_classifier()[1].save_pretrained(folder)  # sentence-transformers needs a tokenizer to load
        return load_embedder(folder)


def reload(model: PreTrainedModel, folder: str) -> list[PreTrainedModel]:
    """Returns the saved model, loaded by this library and by the one that users load it with."""
    if isinstance(model, Embedder):
        return [load_model(folder), load_embedder(folder)]
    return [load_model(folder), type(model).from_pretrained(folder).eval()]


def relative_error(
    model: PreTrainedModel, expected: list[dict[str, Any]], batches: list[dict[str, Tensor]], outputs: Any
) -> float:
    """Returns the largest error of a model's outputs, relative to their standard deviation."""
    actual = reference(model, batches, outputs)[1]
    return compare(actual, expected, batches).relative_error


def try_method(model: PreTrainedModel, method: str, batches: list[dict[str, Tensor]], outputs: Any) -> dict[str, Any]:
    """Prunes, saves, reloads and exports one model; compares the outputs with those before saving."""
    pruned, report = prune(model, METHODS[method].config(Sparsity(0.5), batch_size=8), batches)
    expected = reference(pruned, batches, outputs)[1]
    inputs = tuple(name for name in ("input_ids", "attention_mask", "pixel_values") if name in batches[0])
    with TemporaryDirectory() as folder:
        pruned.save_pretrained(folder)
        loaded = max(relative_error(copy, expected, batches, outputs) for copy in reload(model, folder))
        onnx_ir.save(trace(Graph(lower(pruned), inputs, outputs)), Path(folder) / "model.onnx")
        session = open_session("onnx", Path(folder) / "model.onnx", "fp32")
        exported = compare(run_session(session, batches, inputs), expected, batches).relative_error
    errors = {"loaded": loaded, "exported": exported}
    return {
        "sparsity": report.sparsity,
        **errors,
        "works": all(np.isfinite(value) and value <= TOLERANCE for value in errors.values()),
    }


def try_head(name: str, head: str) -> dict[str, Any]:
    """Tries all versions of an architecture with one kind of head: all methods on its first head, else ``auto``."""
    auto = find_class(name, head)
    first = next(other for other in HEADS if find_class(name, other) is not None)
    batches = make_batches(name)
    outputs = HEADS[head][2]
    by_method = {}
    for version in range(len(CONFIGS[name])):
        model = make_model_with_head(auto, name, version, head)
        for method in METHODS if head == first else ["auto"]:
            by_method[f"{method}-{version}"] = try_method(model, method, batches, outputs)
    return {"works": all(result["works"] for result in by_method.values()), "methods": by_method}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--architectures", nargs="*", default=sorted(ARCHITECTURES))
    parser.add_argument("--heads", nargs="*", default=list(HEADS))
    arguments = parse_arguments(parser)
    results = ResultsStore("architecture_table", arguments)
    torch.set_num_threads(1)
    for name in arguments.architectures:
        for head in arguments.heads:
            if find_class(name, head) is None:
                continue
            configuration = {"architecture": name, "head": head}
            row = f"{name}/{head.replace(' ', '-')}"
            try:
                result = results.run(row, lambda n=name, h=head: try_head(n, h), configuration)
                outcome = "works" if result["works"] else "the outputs differ"
            except Exception as error:  # one failure must not end the table
                outcome = f"{type(error).__name__}: {error}"
            print(f"{name:12} {head:22} {outcome}", flush=True)


if __name__ == "__main__":
    main()
