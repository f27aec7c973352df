"""Manifest of an exported model: its runtime, its precision, and its comparison with PyTorch."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertsurgeon.errors import CheckpointError

Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

MANIFEST = "bertsurgeon_export.json"
MODEL_FILES: dict[str, str] = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""File names by runtime; optimum uses the same, so its classes load the folder as well."""

RUNTIME_NAMES: dict[str, str] = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Names of the runtimes in texts for people; PyTorch runs what is not exported."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """Description of an exported model.

    Attributes:
        runtime: ``onnx`` or ``openvino``.
        precision: ``fp32``, ``bf16`` or ``int8``.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        encoder_weights: Weights of the encoder's matrices.
        kept_float: Names of the products that an INT8 model computes in floating point.
        check: Comparison of the outputs with PyTorch's (:class:`bertsurgeon.exporting.verify.Check`).
        quantization: Source of the ranges of an INT8 model: ``trained``, ``static`` or ``dynamic``; None for others.
        quality: What the exported model loses on validation data (:class:`bertsurgeon.exporting.bounds.Quality`); None
            if no bound was measured.
        invariance: How far answers depend on padding, other texts, threads and processor
            (:func:`bertsurgeon.exporting.invariance.measure_invariance`); None if that was not measured.
    """

    runtime: Runtime
    precision: Precision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    encoder_weights: int
    kept_float: tuple[str, ...] = ()
    check: dict[str, Any] = field(default_factory=dict)
    quantization: str | None = None
    quality: dict[str, Any] | None = None
    invariance: dict[str, Any] | None = None

    @property
    def file(self) -> str:
        """Name of the model file."""
        return MODEL_FILES[self.runtime]

    def save(self, folder: Path) -> None:
        """Writes the manifest.

        Args:
            folder: Folder of the exported model.
        """
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        (folder / MANIFEST).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads the manifest.

        Args:
            folder: Folder of the exported model.

        Raises:
            CheckpointError: If the manifest is damaged or of another format, or the model file is missing.
        """
        try:
            data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            version = data.pop("format_version")
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{folder} was exported in format {version}, and this version reads format {FORMAT_VERSION}; "
                    "export the model again."
                )
            for name in ("inputs", "outputs", "kept_float"):
                data[name] = tuple(data[name])
            manifest = cls(**data)
            if manifest.runtime not in MODEL_FILES or not (folder / manifest.file).is_file():
                raise CheckpointError(f"The export in {folder} is incomplete; export the model again.")
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{folder / MANIFEST} is damaged ({error}); export the model again.") from error
        return manifest


def is_exported(folder: str | Path) -> bool:
    """Returns whether a folder holds an exported model."""
    return (Path(folder) / MANIFEST).is_file()
