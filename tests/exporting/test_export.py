"""Exported graphs compute what PyTorch computes, at any shape, without unnecessary operations."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
)

from bertsurgeon import ExportConfig, Groups, PgbConfig, export, load_model, prepare_for_inference, prune
from bertsurgeon.architectures import Encoder, get_architecture
from bertsurgeon.benchmark import open_entry
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.compensation import apply_plan
from bertsurgeon.errors import CheckpointError, ExportError
from bertsurgeon.exporting import onnx_graph
from bertsurgeon.exporting.lowering import Graph, lower
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.onnx_tuning import merge_products
from bertsurgeon.exporting.verify import compare, to_arrays
from bertsurgeon.plan import ROLES, Dense, Dropped, Grouped, LayerPlan, LowRank, ModelPlan, Units
from bertsurgeon.runtime import MANIFEST, Manifest, open_exported, open_session
from bertsurgeon.tasks import head_of
from cli_helpers import files, run, succeed, tokenized_texts, write_data, write_model
from conftest import make_config

SHAPES = ((1, 1), (1, 7), (2, 2), (5, 16), (3, 33))
INPUTS = ("input_ids", "attention_mask")


def make_pruned(model: PreTrainedModel, kind: str, batches: list[dict[str, Tensor]]) -> PreTrainedModel:
    if kind == "dense":
        return model
    if kind == "pgb":
        return prune(model, PgbConfig(Groups(2), samples=24), batches)[0]
    architecture = get_architecture(model.config.model_type)
    shapes = Encoder(model).shapes
    layers = [LayerPlan.build(shape, dict.fromkeys(ROLES, Dense())) for shape in shapes]
    if kind == "auto":
        first: dict[Any, Any] = {role: LowRank(6) for role in ROLES}
        first["value"] = Dense()
        units = {"attention": Units(((0, 2),), 4, 12), "feed_forward": Units((tuple(range(0, 96, 3)),), 96, 1)}
        layers[0] = LayerPlan.build(shapes[0], first, units)  # type: ignore[arg-type]
        layers[1] = LayerPlan.build(shapes[1], {role: Dropped() for role in ROLES})
        only = {role: Dense() if role in ("intermediate", "output") else Dropped() for role in ROLES}
        layers[2] = LayerPlan.build(shapes[2], only)
    else:
        halves = tuple(range(24)), tuple(range(24, 48))
        step = 1 if kind == "aligned" else 4  # neighbors that stay together
        mixed = tuple(tuple(c for c in range(48) if c // step % 2 == group) for group in range(2))
        wide = tuple(range(48)), tuple(range(48, 96))
        reads, writes = Grouped(halves, mixed), Grouped(mixed, halves)
        structures: dict[Any, Any] = dict.fromkeys(("query", "key", "value"), reads) | {
            "attention_output": writes,
            "intermediate": Grouped(wide, mixed),
            "output": Grouped(mixed, wide),
        }
        units = {
            "attention": Units(((0, 1), (2, 3)), 4, 12),
            "feed_forward": Units((tuple(range(48)), tuple(range(48, 96))), 96, 1),
        }
        layers[0] = LayerPlan.build(shapes[0], structures, units)  # type: ignore[arg-type]
    plan = ModelPlan(architecture.name, tuple(layers))
    pruned = apply_plan(model, plan, "none")
    attach_plan(pruned, plan)
    return pruned


def traced(model: PreTrainedModel) -> onnx_ir.Model:
    return trace(Graph(lower(model), INPUTS, ("logits",)))


def products(graph: onnx_ir.Model) -> int:
    return sum(node.op_type == "MatMul" and node.inputs[1].const_value is not None for node in graph.graph)


def channel_gathers(graph: onnx_ir.Model) -> int:
    """Gathers by a constant list of channels (those of the embeddings have indices that are not constant)."""
    return sum(
        node.op_type.startswith("Gather")
        and node.inputs[1].const_value is not None
        and node.inputs[1].const_value.size > 1
        for node in graph.graph
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("bert", kind) for kind in ("dense", "auto", "aligned", "chunked", "pgb")),
        *((name, kind) for name in ("roberta", "distilbert") for kind in ("dense", "auto")),
    ],
)
def test_both_runtimes_match_pytorch_at_any_shape(
    name: str,
    kind: str,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_batches: list[dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    model = make_pruned(tiny_model(name), kind, tiny_batches)
    graph = traced(model)
    merged = traced(model)
    merge_products(merged)
    onnx_ir.save(graph, tmp_path / "model.onnx")
    onnx_ir.save(merged, tmp_path / "merged.onnx")
    sessions = [
        open_session(runtime, tmp_path / f"{name}.onnx", "fp32")  # type: ignore[arg-type]
        for name in ("model", "merged")
        for runtime in ("onnx", "openvino")
    ]
    generator = torch.Generator().manual_seed(0)
    for rows, length in SHAPES:
        mask = torch.ones(rows, length, dtype=torch.long)
        mask[-1, length // 2 + 1 :] = 0
        batch = {"input_ids": torch.randint(5, 100, mask.shape, generator=generator), "attention_mask": mask}
        with torch.no_grad():
            expected = model(**batch).logits.numpy()
        for session in sessions:
            logits = session.run(to_arrays(batch, INPUTS))["logits"]
            np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=1e-4)
    # dropped matrices have no product; only free permutations have gathers
    product_counts = {"dense": 3 * 6, "auto": (1 + 5 * 2) + 0 + 2, "aligned": 6 * 2 + 2 * 6, "chunked": 6 * 2 + 2 * 6}
    # merged: one product for query, key and value
    merged_counts = {
        "dense": 3 * 4,
        "auto": (1 + 2 + 2 + 2 + 2) + 0 + 2,
        "aligned": 4 * 2 + 2 * 4,
        "chunked": 4 * 2 + 2 * 4,
    }
    if kind == "pgb":
        assert channel_gathers(graph) == 3 * (8 + 3)  # of ten and two in a layer, two are merged across the activation
    else:
        assert products(graph) == product_counts[kind]
        assert products(merged) == merged_counts[kind]
        assert channel_gathers(graph) == {"aligned": 4, "chunked": 2 * 2 + 2}.get(kind, 0)


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        (AutoModelForTokenClassification, ("logits",)),
        (AutoModelForQuestionAnswering, ("start_logits", "end_logits")),
    ],
)
def test_resultsof_every_token(head: Any, outputs: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = head.from_config(make_config("bert")).eval()
    onnx_ir.save(trace(Graph(lower(model), INPUTS, outputs)), tmp_path / "model.onnx")
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch = {"input_ids": torch.randint(5, 100, mask.shape), "attention_mask": mask}
    with torch.no_grad():
        expected = {name: model(**batch)[name].numpy() for name in outputs}
    for runtime in ("onnx", "openvino"):
        results = open_session(runtime, tmp_path / "model.onnx", "fp32").run(to_arrays(batch, INPUTS))  # type: ignore[arg-type]
        assert results.keys() == expected.keys()
        real = mask.bool().numpy()
        for name in outputs:
            np.testing.assert_allclose(results[name][real], expected[name][real], atol=2e-5, rtol=1e-4)
        check = compare([results], [expected], [batch], head_of(model))
        assert check.relative_error < 1e-4
        assert check.agreement == 100
        spoiled = {name: np.array(value) for name, value in results.items()}
        spoiled[outputs[0]][~real] = 99.0
        assert compare([spoiled], [expected], [batch], head_of(model)) == check  # padding does not count


@pytest.mark.parametrize("kind", ["dense", "aligned", "chunked", "pgb"])
def test_models_prepared_for_inference_are_lowered(
    kind: str, tiny_model: Callable[..., PreTrainedModel], tiny_batches: list[dict[str, Tensor]]
) -> None:
    """A shared gather must not happen twice, and a fused activation must not get lost."""
    pruned = make_pruned(tiny_model("bert"), kind, tiny_batches)
    inputs = [tiny_batches[0][name] for name in INPUTS]
    with torch.no_grad():
        expected = pruned(**dict(zip(INPUTS, inputs, strict=True))).logits
        prepared = prepare_for_inference(pruned)
        for fill_groups in (False, True):
            [logits] = Graph(lower(prepared, fill_groups), INPUTS, ("logits",))(*inputs)
            torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(prepared(**tiny_batches[0]).logits, expected, atol=2e-5, rtol=1e-4)


def test_a_prepared_model_is_exported_with_texts(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder / "dense")
    model = prepare_for_inference(load_model(folder / "pruned"))
    texts = ["the film was fine", "a dull plot", "a very old film"] * 12
    manifest = export(model, ExportConfig(), texts, tokenizer, output=tmp_path / "out")
    assert manifest.check["relative_error"] < 1e-4
    assert manifest.check["texts"] > 8


def test_dropped_layers_leave_nothing_in_the_graph(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = make_pruned(tiny_model("distilbert"), "auto", [])
    graph = traced(model)
    assert sum(node.op_type == "Softmax" for node in graph.graph) == 1
    assert sum(node.op_type == "LayerNormalization" for node in graph.graph) == 1 + 2 * 3


def test_groups_may_be_written_as_dense_products(
    tiny_model: Callable[..., PreTrainedModel], tiny_batches: list[dict[str, Tensor]], tmp_path: Path
) -> None:
    model = make_pruned(tiny_model("bert"), "pgb", tiny_batches)
    graph = trace(Graph(lower(model, fill_groups=True), INPUTS, ("logits",)))
    assert channel_gathers(graph) == 0
    assert products(graph) == 3 * 6
    onnx_ir.save(graph, tmp_path / "model.onnx")
    batch = tiny_batches[0]
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    logits = open_session("onnx", tmp_path / "model.onnx", "fp32").run(to_arrays(batch, INPUTS))["logits"]
    np.testing.assert_allclose(logits, expected, atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_model(folder / "dense")
    write_data(folder / "train.csv", 120, seed=1)
    write_data(folder / "validation.csv", 40, seed=2)
    succeed("prune", folder / "dense", *files(folder), "--sparsity", "0.5", "-o", folder / "pruned")
    return folder


TIMED = ("onnx", "fp32"), ("openvino", "int8")
"""Every process that measures memory starts from nothing, which takes seconds."""


@pytest.mark.parametrize(
    ("runtime", "precision", "more"),
    [
        ("onnx", "fp32", ()),
        ("onnx", "int8", ()),
        ("onnx", "int8", ("--quantization", "dynamic")),
        ("openvino", "fp32", ()),
        ("openvino", "bf16", ()),
        ("openvino", "int8", ()),
    ],
)
def test_exported_folders_are_evaluated_and_timed(
    runtime: str, precision: str, more: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    options = ("--to", runtime, "--precision", precision, *more, *files(folder), "--tolerance", "0.3")
    exported = json.loads(succeed("export", folder / "pruned", *options, "-o", tmp_path / "out", "--json").stdout)
    assert exported["check"]["texts"] > 0
    assert exported["check"]["agreement"] >= 95
    assert exported["check"]["relative_error"] < {"fp32": 1e-4, "bf16": 0.05, "int8": 0.3}[precision]
    data = ("evaluate", tmp_path / "out", *files(folder), "--json"), ("evaluate", folder / "pruned", *files(folder))
    accuracy, expected = (json.loads(succeed(*one, "--json").stdout)["metrics"]["accuracy"] for one in data)
    assert abs(accuracy - expected) <= 5
    if (runtime, precision) not in TIMED:
        return
    timed = succeed(
        "bench", folder / "pruned", tmp_path / "out", "--batch-size", "1,2", "--length", "8", "--runs", "2", "--json"
    )
    assert set(json.loads(timed.stdout)["models"]) == {str(folder / "pruned"), str(tmp_path / "out")}


def test_an_export_that_differs_is_refused(folder: Path, tmp_path: Path) -> None:
    options = ("--to", "openvino", "--precision", "bf16", "--tolerance", "1e-9", *files(folder))
    result = run("export", folder / "pruned", *options, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "differs from PyTorch" in result.stderr
    assert not (tmp_path / "out").exists()


def test_int8_keeps_sensitive_sub_layers_in_floating_point(folder: Path, tmp_path: Path) -> None:
    """The limit lies between zero and the error of INT8 in all products."""
    data = (*files(folder), "--to", "openvino", "--precision", "int8", "--json")
    everywhere = json.loads(succeed("export", folder / "dense", *data, "-o", tmp_path / "all").stdout)
    limit = 0.7 * everywhere["check"]["relative_error"]
    partly = succeed("export", folder / "dense", *data, "-o", tmp_path / "partly", "--tolerance", limit)
    exported = json.loads(partly.stdout)
    assert everywhere["kept_float"] == []
    assert len(exported["kept_float"]) > 0
    assert exported["check"]["relative_error"] <= limit


@pytest.mark.parametrize("name", ["dense", "pruned"])
def test_onnx_runtime_computes_an_int8_encoder_in_integers(name: str, folder: Path, tmp_path: Path) -> None:
    """A quantized product that ONNX Runtime does not recognize runs in fp32, slower than without quantization."""
    options = ("--to", "onnx", "--precision", "int8", "--tolerance", "0.3")
    succeed("export", folder / name, *options, *files(folder), "-o", tmp_path / "out")
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3  # it warns that such a file is specific to this machine
    onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", settings, providers=["CPUExecutionProvider"])
    graph = onnx_ir.load(tmp_path / "optimized.onnx").graph
    kinds = Counter(node.op_type for node in graph if "MatMul" in node.op_type or "Gemm" in node.op_type)
    integers = sum(count for kind, count in kinds.items() if "Integer" in kind or kind.startswith("Q"))
    assert integers >= (8 if name == "dense" else 4)  # of two layers: query, key and value are one, and three more
    apart = sum(str(node.name).endswith(".outliers") for node in onnx_ir.load(tmp_path / "out" / "model.onnx").graph)
    # attention's second product in each layer, pooler and classifier, and channels with outliers
    assert kinds.total() - integers <= 2 + 2 + apart


def test_the_faster_form_of_groups_is_exported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed("prune", folder / "dense", *files(folder), "--method", "pgb", "--groups", "2", "-o", tmp_path / "pgb")
    for slower, gathers in (("grouped", False), ("filled", True)):

        def time(sessions: dict[str, Any], batches: Any, slow: str = slower, **_: Any) -> dict[str, Any]:
            for session in sessions.values():
                session(**batches[0])
            return {name: SimpleNamespace(p50_ms=1.0 + (name == slow)) for name in sessions}

        monkeypatch.setattr("bertsurgeon.exporting.write.time_batches", time)
        out = tmp_path / slower
        succeed("export", tmp_path / "pgb", "--to", "onnx", *files(folder), "-o", out)
        assert (channel_gathers(onnx_ir.load(out / "model.onnx")) > 0) == gathers


def test_docstrings_are_the_default_data(folder: Path, tmp_path: Path) -> None:
    succeed("export", folder / "dense", "--to", "onnx", "-o", tmp_path / "out")
    assert open_exported(tmp_path / "out").manifest.check["texts"] > 0


def test_impossible_exports_are_refused(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--to", "tensorrt"), "onnx or openvino"),
        (("--to", "onnx", "--precision", "bf16"), "export to openvino"),
        (("--to", "openvino", "--precision", "int8", "--quantization", "dynamic"), "Dynamic quantization"),
        (("--to", "onnx", "--precision", "int8", "--quantization", "statc"), "static, dynamic or trained, not 'statc'"),
        (("--to", "onnx", "--quantization", "static"), "applies to int8, not to fp32"),
        (("--to", "onnx", "--opset", "12"), "opsets from 18 to 25, not 12"),
        (("--to", "openvino", "--opset", "99"), "opsets from 18 to 25, not 99"),
        (("--to", "onnx", "--precision", "int8", "--opset", "21", *files(folder)), "at most 20, not 21"),
        (("--to", "onnx", "--samples", "0"), "at least one sample"),
    ):
        result = run("export", folder / "dense", *options, "-o", tmp_path / "out")
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "out").exists()


def test_damaged_exports_are_reported(folder: Path, tmp_path: Path) -> None:
    succeed("export", folder / "dense", "--to", "onnx", "-o", tmp_path / "out")
    model = tmp_path / "out" / "model.onnx"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.onnx is damaged"):
        open_exported(tmp_path / "out")
    Manifest.load(tmp_path / "out").save(tmp_path / "out")  # with the digests of the damaged file
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot load"):
        open_exported(tmp_path / "out")
    model.unlink()
    with pytest.raises(CheckpointError, match="is incomplete"):
        open_exported(tmp_path / "out")
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    del content["digests"]  # and the version of files that have none: entries of later versions tell
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({**content, "format_version": 1}))
    with pytest.raises(CheckpointError, match="version 1, which has no quality"):
        open_exported(tmp_path / "out")
    (tmp_path / "out" / MANIFEST).write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        open_exported(tmp_path / "out")


def test_a_missing_runtime_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"pip install 'bertsurgeon\[openvino\]'"):
        open_session("openvino", Path("model.xml"), "fp32")


def test_a_head_may_pool_over_tokens(folder: Path, tmp_path: Path) -> None:
    """The additive mask of attention must not reach a head that averages tokens."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(0)
    config = ModernBertConfig(vocab_size=25, classifier_pooling="mean", initializer_range=0.2, **sizes, **special)
    model = ModernBertForSequenceClassification(config).eval()
    tokenizer = load_tokenizer(folder / "dense")
    manifest = export(model, ExportConfig(), tokenized_texts(tokenizer, 40), tokenizer, output=tmp_path / "out")
    assert manifest.check["relative_error"] < 1e-4


def test_models_in_half_precision(folder: Path, tmp_path: Path) -> None:
    """Graphs compute in fp32 with the stored weights, and are compared with the model in fp32."""
    load_model(folder / "pruned").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    load_tokenizer(folder / "dense").save_pretrained(tmp_path / "half")
    exported = succeed("export", tmp_path / "half", "--to", "onnx", *files(folder), "-o", tmp_path / "out", "--json")
    assert json.loads(exported.stdout)["check"]["relative_error"] < 1e-4
    assert [open_entry(str(path)).precision for path in (folder / "pruned", tmp_path / "half")] == [
        "fp32",
        "bf16",
    ]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_weights_beyond_one_file(runtime: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MAX_FILE_BYTES", 10_000)
    succeed("export", folder / "pruned", "--to", runtime, *files(folder), "-o", tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx.data").is_file() == (runtime == "onnx")
    succeed("evaluate", tmp_path / "out", *files(folder))
    integers = ("--precision", "int8", "-o", tmp_path / "int8", *files(folder), "--tolerance", "0.3")
    if runtime == "openvino":
        succeed("export", folder / "pruned", "--to", runtime, *integers)
    else:
        refused = run("export", folder / "pruned", "--to", runtime, *integers)
        assert "export to openvino" in refused.stderr
        assert not (tmp_path / "int8").exists()
