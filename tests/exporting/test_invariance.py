"""Answers do not depend on padding, the other texts of a batch, order, threads or processor, which is measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from bertsurgeon import ExportConfig, export, load_model
from bertsurgeon.devices import instruction_sets
from bertsurgeon.errors import CheckpointError, ExportError
from bertsurgeon.exporting import invariance
from bertsurgeon.exporting.invariance import measure_invariance, worst
from bertsurgeon.runtime import Manifest, is_x86, limited, open_session, run_without_vnni, sessions
from bertsurgeon.runtime.sessions import Arrays
from bertsurgeon.tasks import TASK_TYPES
from cli_helpers import tokenized_texts

BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0], [3, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]),
}
INPUTS = tuple(BATCH)


class Formula:
    """Session that computes logits from ids and mask by a formula, shape (texts, 2)."""

    def __init__(self, formula: Callable[..., Any]) -> None:
        self.formula = formula

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        ids, mask = (inputs[name].astype(np.float32) for name in INPUTS)
        sums = (ids * mask).sum(1)
        values = np.asarray(self.formula(ids=ids, mask=mask, sums=sums), np.float32)
        return {"logits": np.stack([values, 10 - values], 1)}


@pytest.mark.parametrize(
    ("formula", "changes"),
    [
        (lambda sums, **_: sums, set()),
        (lambda sums, **_: sums / sums.max(), {"alone"}),  # one range for the whole batch, as of dynamic INT8
        (lambda ids, sums, **_: sums + ids.shape[1], {"alone", "padded"}),  # padding is not masked
        (lambda sums, **_: sums + np.arange(len(sums)), {"alone", "order"}),
    ],
)
def test_what_is_measured(formula: Callable[..., Any], changes: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariance, "open_session", lambda *_: Formula(formula))
    head = TASK_TYPES["classification"]
    measured = measure_invariance(Formula(formula), Path("model"), "onnx", "fp32", [BATCH], INPUTS, head)
    assert {name for name, one in measured.items() if one and one["relative_error"] > 1e-6} == changes
    assert measured["without_vnni"] is None
    assert all(one is None or one["texts"] == 3 for one in measured.values())
    assert (worst(measured, ["alone", "order"]) or {})["relative_error"] == max(
        one["relative_error"] for name in ("alone", "order") if (one := measured[name])
    )


def test_threads_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_formula(runtime: str, file: Path, precision: str, threads: int, outputs: object = None) -> Formula:
        return Formula(lambda sums, **_: sums * threads)

    monkeypatch.setattr(invariance, "open_session", open_formula)
    measured = measure_invariance(open_formula("", Path(), "", 1), Path("model"), "onnx", "fp32", [BATCH], INPUTS, None)
    threads = measured["threads"]
    assert threads is not None
    assert threads["largest_error"] == 26  # the largest sum of ids


def test_a_batch_of_the_full_length_is_not_padded() -> None:
    session = Formula(lambda sums, **_: sums)
    none = invariance._compare_padded(session, [BATCH], [session.run(BATCH_ARRAYS)], INPUTS, None, 0, 4)
    some = invariance._compare_padded(session, [BATCH], [session.run(BATCH_ARRAYS)], INPUTS, None, 0, 5)
    assert none is None
    assert some is not None


BATCH_ARRAYS = {name: value.numpy() for name, value in BATCH.items()}

LIMITS = {"fp32": 1e-5, "bf16": 0.05, "int8": 1e-3}
"""Largest relative error of the same texts alone, with more padding, in another order and with other threads."""


@pytest.mark.parametrize(
    ("runtime", "precision", "quantization"),
    [
        ("onnx", "fp32", None),
        ("onnx", "int8", "static"),
        ("onnx", "int8", "dynamic"),
        ("openvino", "fp32", None),
        ("openvino", "bf16", None),
        ("openvino", "int8", "static"),
    ],
)
def test_exports_give_the_same_answers(
    runtime: Any, precision: Any, quantization: Any, folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime" if runtime == "onnx" else "openvino")
    if quantization == "static":
        pytest.importorskip("nncf")
    texts: Dataset = tokenized_texts(tokenizer, 64)
    config = ExportConfig(runtime, precision, quantization=quantization)
    export(load_model(folder / "dense"), config, texts, tokenizer, output=tmp_path / "out")
    measured = Manifest.load(tmp_path / "out").invariance
    assert measured is not None
    for name in ("alone", "padded", "order", "threads"):
        one = measured[name]
        if one is None:  # OpenVINO takes one thread where there is one core
            assert (name, runtime) == ("threads", "openvino")
            continue
        assert one["texts"] >= 32
        assert one["relative_error"] < LIMITS[precision], (name, one)
        assert one["agreement"] == 100
    without = measured["without_vnni"]
    assert (without is not None) == (runtime == "openvino" and is_x86())
    if without is not None:
        assert without["relative_error"] < {"fp32": 1e-5, "bf16": 0.05, "int8": 0.3}[precision]
        assert without["agreement"] >= 95
    assert (measured["saturated"] is not None) == (without is not None and precision == "int8")
    if precision == "int8" and runtime == "openvino" and "avx512_vnni" in instruction_sets():
        # this random model has large weights, whose products saturate
        assert measured["saturated"]["relative_error"] > 3 * without["relative_error"]
        _check_that_the_limit_has_effect(tmp_path / "out" / "openvino_model.xml")


def _check_that_the_limit_has_effect(file: Path) -> None:
    """The kernels of INT8 are others with the limit; a variable that has no effect is an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limited, "ISA_VARIABLE", "BERTSURGEON_NO_SUCH_VARIABLE")
        with pytest.raises(ExportError, match="in spite of"):
            run_without_vnni(file, [BATCH_ARRAYS | {"token_type_ids": np.zeros((3, 4), np.int64)}])


def test_a_process_that_fails_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ExportError, match=r"did not run with ONEDNN_MAX_CPU_ISA=AVX2 \(.+\)\.$"):
        run_without_vnni(tmp_path / "missing.xml", [BATCH_ARRAYS])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "is_fp32"), [(["avx2"], True), (["avx2", "avx_vnni"], False), (["avx512_vnni"], False), ([], False)]
)
def test_processors_without_vnni_compute_int8_in_fp32(
    names: list[str], is_fp32: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[dict[str, Any]] = []

    class Core:
        def compile_model(self, graph: Any, device: str, settings: dict[str, Any]) -> Any:
            compiled.append(settings)
            raise RuntimeError("enough")

        read_model = str

    monkeypatch.setattr(sessions, "require", lambda *_: type("openvino", (), {"Core": Core, "CompiledModel": int}))
    monkeypatch.setattr(sessions, "instruction_sets", lambda: names)
    monkeypatch.setattr(sessions, "is_x86", lambda: True)
    for precision in ("int8", "fp32"):
        with pytest.raises(CheckpointError, match="enough"):
            open_session("openvino", tmp_path, precision)  # type: ignore[arg-type]
    assert [settings.get("LP_TRANSFORMS_MODE") for settings in compiled] == [False if is_fp32 else None, None]


def test_integers_do_not_saturate_in_onnx_runtime(tmp_path: Path) -> None:
    """Without VNNI, ONNX Runtime adds pairs of products in 16 bits unless this option is set."""
    pytest.importorskip("onnxruntime")
    import onnx_ir as ir

    x = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Identity", [x])
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="one")
    ir.save(ir.Model(graph, ir_version=9), tmp_path / "one.onnx")
    session: Any = open_session("onnx", tmp_path / "one.onnx", "int8")
    options = session._session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
