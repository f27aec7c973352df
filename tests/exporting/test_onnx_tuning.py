"""Rewrites for ONNX Runtime keep the outputs and take effect."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from bertsurgeon import ExportConfig, export, load_model, open_exported
from bertsurgeon.exporting.onnx_graph import add_constant, insert
from bertsurgeon.exporting.onnx_tuning import move_dequantization_after_lookup
from bertsurgeon.runtime import open_session
from cli_helpers import tokenized_texts

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 64)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_norms_are_not_fused_and_tables_stay_integers(
    precision: str, folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    if precision == "int8":
        pytest.importorskip("nncf")
    config = ExportConfig("onnx", precision, tolerance=1.0)  # type: ignore[arg-type]
    export(load_model(folder / "dense"), config, dataset, tokenizer, output=tmp_path / "out")
    graph = ir.load(tmp_path / "out" / "model.onnx").graph
    norms = [node.inputs[0].producer() for node in graph if node.op_type == "LayerNormalization"]
    assert [added.op_type for added in norms] == ["Sum"] * 5  # two in each of two layers, and that of the embeddings
    tables = [node.inputs[0].const_value for node in graph if node.op_type == "Gather" and node.inputs[0].const_value]
    integers = {tuple(table.shape) for table in tables if table.dtype == ir.DataType.INT8}
    whole = {(25, 32), (128, 32), (2, 32)}  # words, positions, types
    assert integers == (whole if precision == "int8" else set())
    floats = {tuple(v.shape) for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT}
    assert ((25, 32) in floats, (128, 32) in floats) == ((False, False) if precision == "int8" else (True, True))
    session = open_exported(tmp_path / "out")
    logits = session(input_ids=torch.tensor([[2, 7, 3]]), attention_mask=torch.ones(1, 3, dtype=torch.long)).logits
    assert torch.isfinite(logits).all()


def test_dequantization_after_the_lookup_keeps_the_outputs() -> None:
    generator = np.random.default_rng(0)
    integers = generator.integers(-128, 128, (9, 4), dtype=np.int8)
    scales = generator.random(9, np.float32)
    ids = np.array([[8, 0], [3, 3]])
    outputs = []
    for rewritten in (False, True):
        graph = lookup(integers, scales, np.zeros(9, np.int8))
        if rewritten:
            assert move_dequantization_after_lookup(graph) == 1
        assert ("DequantizeLinear" in {node.op_type for node in graph}) != rewritten
        outputs.append(run(graph, ids)["rows"])
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_allclose(outputs[0], integers[ids] * scales[ids][..., None], rtol=1e-6)


def test_a_table_with_zero_points_is_not_rewritten() -> None:
    graph = lookup(np.ones((9, 4), np.int8), np.ones(9, np.float32), np.ones(9, np.int8))
    assert move_dequantization_after_lookup(graph) == 0


def lookup(
    integers: "np.ndarray[tuple[int, int], np.dtype[np.int8]]",
    scales: "np.ndarray[tuple[int], np.dtype[np.float32]]",
    zeros: "np.ndarray[tuple[int], np.dtype[np.int8]]",
) -> ir.Graph:
    """A lookup in a table that is dequantized as a whole, as quantizers write it."""
    ids = ir.Value(name="ids", shape=ir.Shape(["batch", "tokens"]), type=ir.TensorType(ir.DataType.INT64))
    end = ir.node("Identity", [ids])
    graph = ir.Graph([ids], [], nodes=[end], opset_imports={"": 20}, name="lookup")
    parts = [add_constant(graph, name, array) for name, array in (("q", integers), ("s", scales), ("z", zeros))]
    table = insert(graph, end, "DequantizeLinear", parts, {"axis": 0})
    rows = insert(graph, end, "Gather", [table, ids], {"axis": 0})
    end.replace_input_with(0, rows)
    end.outputs[0].name, end.outputs[0].dtype = "rows", ir.DataType.FLOAT
    graph.outputs.append(end.outputs[0])
    return graph


def run(graph: ir.Graph, ids: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=9))
    return open_session("onnx", model.SerializeToString(), "fp32").run({"ids": ids})
