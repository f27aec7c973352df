"""What works on which architecture: prune half, save, reload, export to ONNX, and the outputs stay equal.

    python experiments/architecture_table.py

Tiny random models, those of the tests. Every cell of the table is one model with one kind of head; finished ones are
kept as JSON and not run again. ``make_docs.py`` puts the table into ``docs/adding-an-architecture.md``.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon import PruneConfig, prune
from bertsurgeon.architectures import ARCHITECTURES
from bertsurgeon.checkpoint import load_embedder, load_model
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.embedder import Embedder
from bertsurgeon.exporting.lowering import Graph, lower
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.verify import answers_of, compare, reference
from bertsurgeon.runtime import open_session
from bertsurgeon.toy import toy_classifier
from common import cached

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from architecture_cases import CONFIGS, make_batches, make_model

TASKS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "classification": ("AutoModelForSequenceClassification", {"num_labels": 3}, ("logits",)),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1}, ("logits",)),
    "token classification": ("AutoModelForTokenClassification", {"num_labels": 5}, ("logits",)),
    "question answering": ("AutoModelForQuestionAnswering", {}, ("start_logits", "end_logits")),
    "embeddings": ("AutoModel", {}, ("sentence_embedding",)),
    "image classification": ("AutoModelForImageClassification", {"num_labels": 3}, ("logits",)),
    "language model": ("AutoModelForCausalLM", {}, ("logits",)),
}
"""Auto class, entries of the configuration, and outputs of each kind of head."""

METHODS = ("auto", "pgb", "obert")
"""All of them are tried on the first kind of head that an architecture has, ``auto`` on all."""

TOLERANCE = 1e-4
"""Largest error of an output, as a share of the outputs' own deviation from their mean."""


def find_class(name: str, task: str) -> Any:
    """The Auto class, or None where the architecture has no such head."""
    auto = getattr(transformers, TASKS[task][0])
    if task == "language model" and not ARCHITECTURES[name].decoder:
        return None
    if (task == "image classification") != (name == "vit"):
        return None
    return auto if CONFIGS[name][0][0] in auto._model_mapping else None


def make_cell_model(auto: Any, name: str, version: int, task: str) -> PreTrainedModel:
    """A tiny model with the head of the task; embedders are encoders with mean pooling by sentence-transformers."""
    model = make_model(auto, name, version, **TASKS[task][1])
    if task != "embeddings":
        return model
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        toy_classifier()[1].save_pretrained(folder)  # sentence-transformers wants a tokenizer; batches are at hand
        return load_embedder(folder)


def reload(model: PreTrainedModel, folder: str) -> list[PreTrainedModel]:
    """What is on disk, loaded by this library and by the one the user loads it with."""
    if isinstance(model, Embedder):
        return [load_model(folder), load_embedder(folder)]
    return [load_model(folder), type(model).from_pretrained(folder).eval()]


def error(
    found: PreTrainedModel, wanted: list[dict[str, Any]], batches: list[dict[str, Tensor]], outputs: Any
) -> float:
    answers = reference(found, batches, outputs)[1]
    return compare(answers, wanted, batches).relative_error


def try_method(model: PreTrainedModel, method: Any, batches: list[dict[str, Tensor]], outputs: Any) -> dict[str, Any]:
    """Prunes, saves, reloads and exports one model; how far the outputs are from those before."""
    pruned, report = prune(model, batches, PruneConfig(method=method, sparsity=0.5, batch_size=8))
    wanted = reference(pruned, batches, outputs)[1]
    inputs = tuple(name for name in ("input_ids", "attention_mask", "pixel_values") if name in batches[0])
    with TemporaryDirectory() as folder:
        pruned.save_pretrained(folder)
        loaded = max(error(again, wanted, batches, outputs) for again in reload(model, folder))
        onnx_ir.save(trace(Graph(lower(pruned), inputs, outputs)), Path(folder) / "model.onnx")
        session = open_session("onnx", Path(folder) / "model.onnx", "fp32")
        exported = compare(answers_of(session, batches, inputs), wanted, batches).relative_error
    errors = {"loaded": loaded, "exported": exported}
    return {
        "sparsity": report.sparsity,
        **errors,
        "works": all(np.isfinite(value) and value <= TOLERANCE for value in errors.values()),
    }


def try_cell(name: str, task: str) -> dict[str, Any]:
    """All versions of an architecture with one kind of head."""
    auto = find_class(name, task)
    first = next(other for other in TASKS if find_class(name, other) is not None)
    batches = make_batches(name)
    outputs = TASKS[task][2]
    found = {}
    for version in range(len(CONFIGS[name])):
        model = make_cell_model(auto, name, version, task)
        for method in METHODS if task == first else METHODS[:1]:
            found[f"{method}-{version}"] = try_method(model, method, batches, outputs)
    return {
        "architecture": name,
        "task": task,
        "works": all(result["works"] for result in found.values()),
        "methods": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="*", default=sorted(ARCHITECTURES))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    arguments = parser.parse_args()
    quieten_libraries()
    torch.set_num_threads(1)
    for name in arguments.architectures:
        for task in arguments.tasks:
            if find_class(name, task) is None:
                continue
            place = f"architectures/{name}/{task.replace(' ', '-')}"
            try:
                result = cached(place, lambda n=name, t=task: try_cell(n, t))
                said = "works" if result["works"] else "the outputs differ"
            except Exception as problem:  # one cell must not end the table
                said = f"{type(problem).__name__}: {problem}"
            print(f"{name:12} {task:22} {said}", flush=True)


if __name__ == "__main__":
    main()
