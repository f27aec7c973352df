"""What stands beside an exported model: where it runs, in which precision, and how it was checked."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertsurgeon.errors import CheckpointError

Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

MANIFEST = "bertsurgeon_export.json"
MODEL_FILES: dict[str, str] = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""As optimum names them, so that its classes load the folder too."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What an exported folder holds.

    Attributes:
        runtime: Who runs it.
        precision: What it computes in.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        encoder_weights: Weights of the encoder's matrices.
        kept_float: Products an INT8 model leaves in floating point.
        check: How its outputs compare with PyTorch's.
        quantization: Where the ranges of an INT8 model come from: ``trained``, ``static`` or ``dynamic``.
    """

    runtime: Runtime
    precision: Precision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    encoder_weights: int
    kept_float: tuple[str, ...] = ()
    check: dict[str, Any] = field(default_factory=dict)
    quantization: str | None = None

    @property
    def file(self) -> str:
        """Name of the model's file."""
        return MODEL_FILES[self.runtime]

    def save(self, folder: Path) -> None:
        """Writes the manifest."""
        data = {"format_version": FORMAT_VERSION, **asdict(self)}
        (folder / MANIFEST).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads the manifest.

        Raises:
            CheckpointError: If it is damaged or of a newer format.
        """
        try:
            data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            version = data.pop("format_version")
            if version != FORMAT_VERSION:
                raise CheckpointError(f"{folder} was exported in format {version}; export the model again.")
            for name in ("inputs", "outputs", "kept_float"):
                data[name] = tuple(data[name])
            manifest = cls(**data)
            if manifest.runtime not in MODEL_FILES or not (folder / manifest.file).is_file():
                raise CheckpointError(f"{folder} is no complete export; export the model again.")
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{folder / MANIFEST} is damaged ({error}); export the model again.") from error
        return manifest


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an exported model."""
    return (Path(folder) / MANIFEST).is_file()
