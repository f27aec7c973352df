"""Is one product for query, key and value faster than three? BERT-base's shape, random weights, fp32.

    python experiments/merged_products.py

The same models are exported as exports are, and with products that read the same value made one. Plans are those of
``experiments/speed.py``.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as common_passes

from bertsurgeon import ExportConfig, export, load_model, progress
from bertsurgeon.benchmark import open_contender, random_inputs, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.exporting import onnx_graph
from bertsurgeon.exporting.onnx_edit import constant
from bertsurgeon.exporting.onnx_graph import constant_of, name_products
from bertsurgeon.tasks import load_task, tokenize
from common import cached
from speed import SHAPES, build

MODELS = ("dense", "timed-0.5", "timed-0.88", "timed-0.97", "aligned-0.5")
RUNS = 15


def merge_products(model: ir.Model) -> None:
    """Computes products that read the same value by one product, in place, and splits its outputs.

    Query, key and value become one product; so do the first factors of their low ranks, and their blocks in aligned
    groups. Biases are added before the split.
    """
    readers: dict[int, list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        if node.op_type == "MatMul" and node.domain == "" and constant_of(node.inputs[1]) is not None:
            readers[id(node.inputs[0])].append(node)
    for nodes in readers.values():
        if len(nodes) > 1:
            _merge(model, nodes)


def _merge(model: ir.Model, nodes: list[ir.Node]) -> None:
    name = "+".join(str(node.name) for node in nodes)
    x = nodes[0].inputs[0]
    weights = [constant_of(node.inputs[1]) for node in nodes]
    shift = [_bias_of(node) for node in nodes]
    ends = [node.outputs[0] if found is None else found[0].outputs[0] for node, found in zip(nodes, shift, strict=True)]
    widths = [weight.shape[1] for weight in weights if weight is not None]
    weight = constant(model.graph, f"{name}.weight", np.concatenate([w for w in weights if w is not None], 1))
    product = ir.node("MatMul", [x, weight])
    new = [product]
    merged = product.outputs[0]
    if any(found is not None for found in shift):
        biases = [
            np.zeros(width, np.float32) if found is None else found[1]
            for width, found in zip(widths, shift, strict=True)
        ]
        added = ir.node("Add", [merged, constant(model.graph, f"{name}.bias", np.concatenate(biases))])
        new.append(added)
        merged = added.outputs[0]
    sizes = constant(model.graph, f"{name}.sizes", np.array(widths, np.int64))
    split = ir.node("Split", [merged, sizes], {"axis": -1}, num_outputs=len(widths))
    new.append(split)
    for node in new:
        node.name = name if node is product else f"{name}.{node.op_type.lower()}"
        for place, output in enumerate(node.outputs):
            output.name = f"{node.name}.output.{place}"
            output.dtype = ir.DataType.FLOAT
    model.graph.insert_after(nodes[0], new)
    for end, part in zip(ends, split.outputs, strict=True):
        part.shape = end.shape
        ir.convenience.replace_all_uses_with(end, part)


def _bias_of(node: "ir.Node") -> tuple[ir.Node, np.ndarray[Any, Any]] | None:
    """The addition of a constant vector that is all that happens to a product."""
    uses = node.outputs[0].uses()
    if len(uses) != 1:
        return None
    [(user, _)] = uses
    if user.op_type != "Add":
        return None
    for operand in user.inputs:
        value = constant_of(operand)
        if value is not None and value.ndim == 1:
            return user, value
    return None


def name_and_merge(model: ir.Model) -> None:
    """In place of :func:`bertsurgeon.exporting.onnx_graph.name_products`, the step before which nothing is shared."""
    name_products(model)
    common_passes.CommonSubexpressionEliminationPass()(model)
    merge_products(model)


def measure(runtime: str, name: str) -> dict[str, dict[str, float]]:
    """Milliseconds by shape and way."""
    source = build(name)
    model, tokenizer = load_model(source), load_tokenizer(source)
    texts = tokenize(load_task("docstrings").train.select(range(256)), tokenizer)
    config = ExportConfig(runtime, samples=32, tolerance=float("inf"))  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        export(model, Path(folder) / "separate", config, texts, tokenizer)
        with patch.object(onnx_graph, "name_products", name_and_merge):
            export(model, Path(folder) / "merged", config, texts, tokenizer)
        opened = {way: open_contender(str(Path(folder) / way)).model for way in ("merged", "separate")}
        found = {}
        for shape in SHAPES:
            times = time_batches(opened, [random_inputs(list(opened.values()), *shape)], runs=RUNS)
            found["x".join(map(str, shape))] = {way: latency.p50_ms for way, latency in times.items()}
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    quieten_libraries()
    progress.show()
    for runtime in ("onnx", "openvino"):
        for name in MODELS:
            cached(f"merged-products/{runtime}-{name}", lambda r=runtime, n=name: {"milliseconds": measure(r, n)})


if __name__ == "__main__":
    main()
