"""Manifest of an exported model: its runtime, its precision, and its comparison with PyTorch."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from bertsurgeon.errors import CheckpointError
from bertsurgeon.files import DamagedFileError, file_digest, json_digest, read_json

Runtime = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]

MANIFEST = "bertsurgeon_export.json"
MODEL_FILES: dict[str, str] = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""File names by runtime; optimum uses the same, so its classes load the folder as well."""

RUNTIME_NAMES: dict[str, str] = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Names of the runtimes in texts for people; PyTorch runs what is not exported."""

FORMAT_VERSION = 2
"""Version that is written; version 1, that of 0.1.0, has no digests."""

LATER_ENTRIES = ("digests", "quality", "invariance", "outlier_channels")
"""Entries that version 1 has not."""

_OWN_DIGEST = "manifest"
"""Name in the digests for the other entries of the manifest itself."""


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
        digests: Digests of the files of the graph by name, and of the manifest; made when it is saved, and empty for
            exports of 0.1.0.
        quality: What the exported model loses on validation data (:class:`bertsurgeon.exporting.bounds.ExportQuality`);
            None if no bound was measured.
        outlier_channels: Number of inputs that an INT8 model multiplies in floating point, because they are far larger
            than others (:mod:`bertsurgeon.exporting.outliers`).
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
    digests: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Any] | None = None
    invariance: dict[str, Any] | None = None
    outlier_channels: int = 0

    @property
    def file(self) -> str:
        """Name of the model file."""
        return MODEL_FILES[self.runtime]

    def save(self, folder: Path) -> None:
        """Writes the manifest, with digests of the files of the graph, which must be there.

        Args:
            folder: Folder of the exported model.
        """
        data: dict[str, Any] = {"format_version": FORMAT_VERSION, **asdict(self), "digests": {}}
        digests = {_OWN_DIGEST: json_digest(data)}
        digests |= {file.name: file_digest(file) for file in _graph_files(folder, self.runtime)}
        text = json.dumps({**data, "digests": digests}, indent=1) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads the manifest; the files of the graph are checked by :meth:`check_files`.

        Args:
            folder: Folder of the exported model.

        Raises:
            CheckpointError: If the manifest is damaged or of another format, or the model file is missing.
        """
        file = folder / MANIFEST
        try:
            data = read_json(file)
            version = data.get("format_version")
            if version is None:
                raise DamagedFileError("it has no format_version")
            if version not in (1, FORMAT_VERSION) or isinstance(version, bool):
                raise CheckpointError(
                    f"{folder} was exported in format {str(version)[:20]}, and this version reads up to format "
                    f"{FORMAT_VERSION}; update bertsurgeon, or export the model again."
                )
            manifest = _from_dict(data, has_digests=version != 1)
            if not (folder / manifest.file).is_file():
                raise CheckpointError(f"The export in {folder} is incomplete; export the model again.")
        except (OSError, DamagedFileError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); export the model again.") from error
        return manifest

    def check_files(self, folder: Path) -> None:
        """Checks that the files of the graph are as they were exported; exports of 0.1.0 cannot be checked.

        Args:
            folder: Folder of the exported model.

        Raises:
            CheckpointError: Naming the first file that is not.
        """
        for name, digest in self.digests.items():
            try:
                is_intact = name == _OWN_DIGEST or file_digest(folder / name) == digest
            except OSError:
                is_intact = False
            if not is_intact:
                raise CheckpointError(
                    f"{folder / name} is damaged, missing or another model's; copy it again, or export the model again."
                )


def _graph_files(folder: Path, runtime: str) -> list[Path]:
    """Returns the files of the graph that are there; weights may be in a file of their own."""
    name = MODEL_FILES[runtime]
    return sorted({*folder.glob(f"{name}*"), *folder.glob(f"{Path(name).stem}.bin")})


def _from_dict(data: dict[str, Any], has_digests: bool) -> Manifest:
    """Returns the manifest that is expressed by plain data; entries that later versions may add are ignored.

    Raises:
        DamagedFileError: If an entry is missing or has a wrong value.
    """
    named = {name: data.get(name, []) for name in ("inputs", "outputs", "kept_float")}
    digests = data.get("digests", {})
    checks = {
        "runtime": data.get("runtime") in get_args(Runtime),
        "precision": data.get("precision") in get_args(Precision),
        "encoder_weights": type(data.get("encoder_weights")) is int,
        "outlier_channels": type(data.get("outlier_channels", 0)) is int,
        "quantization": isinstance(data.get("quantization"), str | None),
        "check": isinstance(data.get("check", {}), dict),
        "digests": isinstance(digests, dict) and all(isinstance(value, str) for value in digests.values()),
        **{
            name: isinstance(names, list) and all(isinstance(one, str) for one in names)
            for name, names in named.items()
        },
    }
    wrong = next((name for name, is_right in checks.items() if not is_right), None)
    wrong = wrong or next((name for name in ("inputs", "outputs") if not named[name]), None)
    if wrong is not None:
        raise DamagedFileError(f"its entry {wrong} is missing, empty or has a wrong value")
    later = None if has_digests else next((name for name in LATER_ENTRIES if name in data), None)
    if later is not None:
        raise DamagedFileError(f"it is of version 1, which has no {later}, and has some")
    if has_digests:
        if digests.get(_OWN_DIGEST) != json_digest({**data, "digests": {}}):
            raise DamagedFileError("it is not as it was saved")
        if MODEL_FILES[data["runtime"]] not in digests or any(Path(name).name != name for name in digests):
            raise DamagedFileError("its digests are not those of an export")
    values = {entry.name: data[entry.name] for entry in fields(Manifest) if entry.name in data}
    return Manifest(**{**values, **{name: tuple(names) for name, names in named.items()}})


def is_exported(folder: str | Path) -> bool:
    """Returns whether a folder holds an exported model."""
    return (Path(folder) / MANIFEST).is_file()
