"""Exported models, opened: they take tensors and return outputs like the PyTorch models they come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.utils.generic import ModelOutput

from bertsurgeon.errors import CheckpointError, ExportError, first_line
from bertsurgeon.runtime.manifest import Manifest, Precision, Runtime

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Session(Protocol):
    """A loaded graph."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs by name."""


class OnnxSession:
    """ONNX Runtime on the CPU.

    Args:
        file: The model.
        threads: For one product; None for all cores.
    """

    def __init__(self, file: Path | bytes, threads: int | None = None) -> None:
        onnxruntime = require("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # its threads wait for the next product by spinning; once there is none they would slow down whatever runs next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = file if isinstance(file, bytes) else str(file)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own types are not public
            raise _unreadable("ONNX Runtime", file, first_line(error)) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


class OpenVinoSession:
    """OpenVINO on the CPU, tuned for latency.

    Args:
        model: The model, compiled or not, or its file.
        precision: What products are computed in; INT8 models compute the rest in fp32.
        threads: None for all cores.
    """

    def __init__(self, model: Any, precision: Precision, threads: int | None = None) -> None:
        openvino = require("openvino", "openvino")
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            graph = core.read_model(model) if isinstance(model, Path) else model
            ready = isinstance(graph, openvino.CompiledModel)
            self._compiled = graph if ready else core.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            raise _unreadable("OpenVINO", model, _last_line(error)) from error
        self._names = [output.get_any_name() for output in self._compiled.outputs]
        self._request = self._compiled.create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs by name."""
        found = self._request.infer(dict(inputs), share_inputs=True)
        return {name: np.array(found[place]) for place, name in enumerate(self._names)}


class RuntimeModel:
    """An exported model that is called like a PyTorch model.

    Attributes:
        config: Of the model it comes from.
        manifest: What it is.
        device: Always the CPU.
    """

    def __init__(self, session: Session, manifest: Manifest, config: PretrainedConfig) -> None:
        self.session = session
        self.manifest = manifest
        self.config = config
        self.device = torch.device("cpu")

    def __call__(self, **inputs: Tensor) -> ModelOutput:
        """The outputs by name, for token ids of shape (batch, tokens), or for images."""
        arrays = {name: value.numpy() for name, value in inputs.items() if name in self.manifest.inputs}
        if "token_type_ids" in self.manifest.inputs and "token_type_ids" not in arrays:
            arrays["token_type_ids"] = np.zeros_like(arrays["input_ids"])
        return ModelOutput({name: torch.from_numpy(value) for name, value in self.session.run(arrays).items()})

    def eval(self) -> "RuntimeModel":
        """Itself: exported models know no other mode."""
        return self


def open_session(runtime: Runtime, file: Any, precision: Precision, threads: int | None = None) -> Session:
    """Loads a graph into its runtime."""
    return OnnxSession(file, threads) if runtime == "onnx" else OpenVinoSession(file, precision, threads)


def open_exported(folder: str | Path, threads: int | None = None) -> RuntimeModel:
    """Opens an exported folder.

    Raises:
        CheckpointError: If it is damaged.
        ExportError: If its runtime is not installed.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    config = _read_config(folder)
    session = open_session(manifest.runtime, folder / manifest.file, manifest.precision, threads)
    return RuntimeModel(session, manifest, config)


def require(package: str, extra: str) -> Any:
    """Imports an optional package.

    Raises:
        ExportError: If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(f"{package} is not installed; run: pip install 'bertsurgeon[{extra}]'.") from error


def _read_config(folder: Path) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"There is no config.json in {folder}; export the model again.")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except Exception as error:  # wrong values raise a dozen unrelated types
        said = f"{folder / 'config.json'} is damaged ({first_line(error).rstrip(':')})"
        raise CheckpointError(f"{said}; export the model again.") from error
    return config


def _unreadable(runtime: str, model: Any, said: str) -> CheckpointError:
    if isinstance(model, Path):
        return CheckpointError(f"{runtime} cannot load {model} ({said}); export the model again.")
    return CheckpointError(f"{runtime} cannot load the model: {said}.")


def _last_line(error: BaseException) -> str:
    """What OpenVINO says at last; before that, it names its own source files."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip().rstrip(".!")
