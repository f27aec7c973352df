"""Sessions of exported models, which take tensors and return outputs like the PyTorch models they come from."""

import importlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.utils.generic import ModelOutput

from bertsurgeon.devices import instruction_sets
from bertsurgeon.errors import CheckpointError, DataError, ExportError, first_line
from bertsurgeon.files import read_json
from bertsurgeon.runtime.manifest import Manifest, Precision, Runtime
from bertsurgeon.runtime.telemetry import decline_telemetry

_DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}
"""Values of inputs that may be missing beside ``input_ids``."""

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Session(Protocol):
    """A graph that is loaded into a runtime."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Computes the outputs by name, for inputs by name."""


class OnnxSession:
    """Session of ONNX Runtime on the CPU.

    Args:
        model: File of the model, or its bytes.
        threads: Threads per product; None for all cores.
        outputs: Names of the outputs to compute; None for all.

    Raises:
        CheckpointError: If the model cannot be loaded.
        ExportError: If ONNX Runtime is not installed.
    """

    def __init__(self, model: Path | bytes, threads: int | None = None, outputs: Sequence[str] | None = None) -> None:
        onnxruntime = require("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # idle threads spin by default, which would slow down whatever runs after this session
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # without VNNI, sums of two products of INT8 saturate at 16 bits and answers differ from those of processors
        # with it; this option avoids that, and has no effect where there is VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the exception types of ONNX Runtime are not public
            raise _load_error("ONNX Runtime", model, first_line(error)) from error
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = [name for name in names if outputs is None or name in outputs]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Computes the outputs by name, for inputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


class OpenVinoSession:
    """Session of OpenVINO on the CPU, configured for latency.

    Args:
        model: File of the model, or an ``openvino.Model`` or ``openvino.CompiledModel``.
        precision: Precision of the products; the remaining operations of INT8 models run in fp32.
        threads: Threads per inference; None for all cores.
        has_vnni: Whether INT8 is computed in integers (:func:`openvino_settings`); None if the processor decides.
        outputs: Names of the outputs to compute; None for all.

    Raises:
        CheckpointError: If the model cannot be loaded.
        ExportError: If OpenVINO is not installed.
    """

    def __init__(
        self,
        model: Any,
        precision: Precision,
        threads: int | None = None,
        has_vnni: bool | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        openvino = require("openvino", "openvino")
        settings = openvino_settings(precision, threads, _has_vnni() if has_vnni is None else has_vnni)
        try:
            core = openvino.Core()
            graph = core.read_model(model) if isinstance(model, Path) else model
            is_compiled = isinstance(graph, openvino.CompiledModel)
            if outputs is not None and not is_compiled:
                graph = _with_outputs(graph, outputs)
            self._compiled = graph if is_compiled else core.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            raise _load_error("OpenVINO", model, _last_line(error)) from error
        self._outputs = [_output_name(output, outputs) for output in self._compiled.outputs]
        self._request = self._compiled.create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Computes the outputs by name, for inputs by name."""
        arrays = self._request.infer(dict(inputs), share_inputs=True)
        return {name: np.array(arrays[index]) for index, name in enumerate(self._outputs)}


def openvino_settings(precision: Precision, threads: int | None = None, has_vnni: bool = True) -> dict[str, Any]:
    """Returns the settings with which OpenVINO compiles a graph.

    Args:
        precision: Precision of the products; the remaining operations of INT8 models run in fp32.
        threads: Threads per inference; None for all cores.
        has_vnni: Whether the processor multiplies integers without saturation. If not, the rounding of INT8 is computed
            in fp32: sums of two integer products would saturate at 16 bits, and answers differ from those elsewhere.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if precision == "int8" and not has_vnni:
        settings["LP_TRANSFORMS_MODE"] = False
    return settings


def is_x86() -> bool:
    """Returns whether this processor is one of the x86-64 family."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _has_vnni() -> bool:
    """Returns whether INT8 products do not saturate; True for other processors, or where the system does not tell."""
    names = instruction_sets()
    return not is_x86() or not names or any("vnni" in name for name in names)


def _output_name(output: Any, outputs: Sequence[str] | None) -> str:
    """Returns the name of an output of OpenVINO, which may have several: the one that is asked for."""
    return next((name for name in outputs or () if name in output.names), str(output.get_any_name()))


def _with_outputs(graph: Any, outputs: Sequence[str]) -> Any:
    """Returns a graph of OpenVINO without its other outputs, which would be copied at every inference."""
    others = [output.names for output in graph.outputs if not output.names & set(outputs)]
    if not others:
        return graph
    graph = graph.clone()
    for output in list(graph.outputs):
        if output.names in others:
            graph.remove_result(output.node)
    return graph


class RuntimeModel:
    """An exported model with the interface of a PyTorch model.

    Args:
        session: The loaded graph.
        manifest: Description of the exported model.
        config: Configuration of the model that was exported.
        folder: Its folder; None if it was not opened from one.

    Attributes:
        session: The loaded graph.
        manifest: Description of the exported model.
        config: Configuration of the model that was exported.
        folder: Its folder; None if it was not opened from one.
        device: The CPU.
    """

    def __init__(
        self, session: Session, manifest: Manifest, config: PretrainedConfig, folder: Path | None = None
    ) -> None:
        self.session = session
        self.manifest = manifest
        self.config = config
        self.folder = folder
        self.device = torch.device("cpu")

    def __call__(self, input_ids: Tensor | None = None, **inputs: Any) -> ModelOutput:
        """Computes the outputs by name.

        Args:
            input_ids: Token ids, shape (batch, tokens); None for images.
            inputs: Masks of the same shape, or images: tensors or arrays, whatever their type of numbers or device.
                A missing mask is 1 everywhere, missing token types are 0; inputs that the graph lacks are ignored.

        Raises:
            DataError: If an input is missing, or is no batch.
        """
        given = {name: value for name, value in {"input_ids": input_ids, **inputs}.items() if value is not None}
        arrays = {name: _as_array(name, value) for name, value in given.items() if name in self.manifest.inputs}
        if "input_ids" in arrays:
            for name, default in _DEFAULTS.items():
                if name in self.manifest.inputs and name not in arrays:
                    arrays[name] = np.full_like(arrays["input_ids"], default)
        for name in self.manifest.inputs:
            if name not in arrays:
                raise DataError(
                    f"The exported model needs the input {name}; pass it ({', '.join(given) or 'none'} given)."
                )
        return ModelOutput({name: torch.from_numpy(value) for name, value in self.session.run(arrays).items()})

    def eval(self) -> "RuntimeModel":
        """Returns itself; an exported model is always in evaluation mode."""
        return self


def _as_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """Returns an input as the graph takes it: int64 token ids and masks, fp32 images.

    Raises:
        DataError: If it is no batch of numbers.
    """
    is_image = name == "pixel_values"
    try:
        tensor = torch.as_tensor(value).detach().to("cpu", torch.float32 if is_image else torch.int64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"The input {name} is no tensor of numbers ({first_line(error)}); pad the batch.") from error
    if tensor.dim() != (4 if is_image else 2):
        form = "(batch, channels, height, width)" if is_image else "(batch, tokens)"
        raise DataError(f"The input {name} must have the shape {form}, not {tuple(tensor.shape)}.")
    return np.ascontiguousarray(tensor.numpy())


def open_session(
    runtime: Runtime,
    model: Any,
    precision: Precision,
    threads: int | None = None,
    outputs: Sequence[str] | None = None,
) -> Session:
    """Loads a graph into its runtime.

    Args:
        runtime: ``onnx`` or ``openvino``.
        model: File of the model, or the model in a form that the runtime accepts.
        precision: Precision of the products.
        threads: Number of threads; None for all cores.
        outputs: Names of the outputs to compute; None for all.

    Raises:
        CheckpointError: If the model cannot be loaded.
        ExportError: If the runtime is not installed.
    """
    if runtime == "onnx":
        return OnnxSession(model, threads, outputs)
    return OpenVinoSession(model, precision, threads, outputs=outputs)


def open_exported(folder: str | Path, threads: int | None = None) -> RuntimeModel:
    """Opens an exported model.

    Args:
        folder: Folder that :func:`bertsurgeon.export` wrote.
        threads: Number of threads; None for all cores.

    Raises:
        CheckpointError: If the folder is damaged, or a file of the graph is not as it was exported.
        ExportError: If the runtime is not installed.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    config = _read_config(folder)
    session = open_session(manifest.runtime, folder / manifest.file, manifest.precision, threads, manifest.outputs)
    return RuntimeModel(session, manifest, config, folder)


def require(package: str, extra: str) -> Any:
    """Imports an optional package; OpenVINO and NNCF without their telemetry.

    Args:
        package: Name of the package or module.
        extra: Extra of ``bertsurgeon`` that installs it.

    Returns:
        The module.

    Raises:
        ExportError: If the package is not installed.
    """
    if package in ("nncf", "openvino"):
        decline_telemetry()
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(f"{package} is not installed; run: pip install 'bertsurgeon[{extra}]'.") from error


def _read_config(folder: Path) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; export the model again.")
    try:
        read_json(folder / "config.json")
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # invalid values raise many unrelated types
        cause = first_line(error).rstrip(":")
        raise CheckpointError(f"{folder / 'config.json'} is damaged ({cause}); export the model again.") from error
    return config


def _load_error(runtime: str, model: Any, cause: str) -> CheckpointError:
    if isinstance(model, Path):
        return CheckpointError(f"{runtime} cannot load {model} ({cause}); export the model again.")
    return CheckpointError(f"{runtime} cannot load the model: {cause}.")


def _last_line(error: BaseException) -> str:
    """Returns the last line of an OpenVINO error; the lines before it name source files of OpenVINO."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".!")
