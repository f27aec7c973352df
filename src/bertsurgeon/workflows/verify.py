"""``verify``: whether a folder that a command wrote is complete, and as it was written."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from bertsurgeon.checkpoint import check_loadable, read_record
from bertsurgeon.checkpoint.checks import check_headers
from bertsurgeon.checkpoint.integrity import find_fault, has_digests
from bertsurgeon.errors import BertSurgeonError, CheckpointError, first_line
from bertsurgeon.files import DamagedFileError, Digests, read_json
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.runtime import MANIFEST, Manifest, is_exported
from bertsurgeon.sentence_folders import module_folders

CONFIG = "config.json"
CALIBRATION = "calibration.json"


@dataclass
class Verification:
    """What :func:`verify` found.

    Attributes:
        folder: The folder.
        holds: What it holds: ``model``, ``export`` and ``calibration``, each with the folder inside it.
        files: Number of files that its record lists; None if it has no record.
        checked: Number of tensors and files of graphs that were compared with their digests.
        faults: One sentence for each fault.
        notes: Sentences about what could not be checked.
    """

    folder: str
    holds: list[str] = field(default_factory=list)
    files: int | None = None
    checked: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {**asdict(self), "is_intact": self.is_intact}


def verify(folder: str | Path) -> Verification:
    """Checks a folder that a command, ``save_model`` or ``save_pretrained`` of a pruned model wrote.

    Files that its record lists must be there. Models are checked without computing anything: tensors, and entries of
    ``config.json`` that change the outputs, must be as they were saved, and the shapes must fit the configuration. The
    same holds for calibrations, and for the graphs of exports. An output folder of ``compress`` holds several of these.

    Args:
        folder: The folder.

    Returns:
        What was checked, and every fault.

    Raises:
        CheckpointError: If there is no such folder, or nothing of this library is in it.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from bertsurgeon import save_model, verify
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, _ = toy_classifier()
        >>> with TemporaryDirectory() as folder:
        ...     save_model(model, Path(folder) / "model", tokenizer)
        ...     result = verify(Path(folder) / "model")
        >>> result.holds, result.faults
        (['model'], [])
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; name one that a bertsurgeon command wrote.")
    result = Verification(str(folder))
    record = read_record(folder)
    if record is not None:
        _verify_record(folder, record[1], result)
    modules = _modules_of(folder, result)
    for part in [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())]:
        if part in modules:
            _verify_module(part, result)
            continue
        suffix = "" if part == folder else f" in {part.name}"
        for name, file, check in _PARTS:
            if (part / file).is_file() and (name != "model" or not is_exported(part)):
                if name == "model" and part != folder and not any(part.glob("*.safetensors")):
                    continue  # the settings of a module of sentence-transformers
                result.holds.append(f"{name}{suffix}")
                try:
                    check(part, result)
                except BertSurgeonError as error:
                    result.faults.append(str(error))
                except (OSError, SafetensorError, DamagedFileError) as error:
                    result.faults.append(f"{part} cannot be read ({first_line(error)}); copy it again.")
    if record is not None and record[0] in ("model", "export", "calibration") and record[0] not in result.holds:
        result.faults.append(f"{folder} holds no {record[0]} any more, as which it was written; copy it again.")
    if not result.holds and record is None:
        raise CheckpointError(
            f"{folder} holds no model, export or calibration; name a folder that a bertsurgeon command wrote."
        )
    if record is None:
        result.notes.append(f"{folder} has no record of its files, so that a missing report would not be noticed.")
    return result


def _verify_record(folder: Path, listed: list[str], result: Verification) -> None:
    files = [name for name in listed if not name.endswith("/")]
    result.files = len(files)
    for name in files:
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            result.faults.append(f"The record of {folder} names {name[:80]}, which is outside of it; copy it again.")
        elif not path.is_file() and not path.is_dir():
            fault = "is no regular file" if path.exists() or path.is_symlink() else "is missing"
            result.faults.append(f"{path} {fault}; copy the folder again.")


def _verify_model(folder: Path, result: Verification) -> None:
    """Checks one model: digests of its tensors and configuration, and its shapes.

    Raises:
        BertSurgeonError: Naming the first fault of each kind that other checks depend on.
    """
    try:
        config = read_json(folder / CONFIG)
    except DamagedFileError as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged ({error}); copy it again.") from error
    check_headers(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"There are no weights in {folder} (model.safetensors); copy the model again.")
    entry = config.get("quantization_config")
    stored = entry.get("digests") if isinstance(entry, dict) else None
    digests = None if stored is None else Digests.from_dict(stored)
    fault = None
    if digests is not None:
        fault = find_fault(folder, files, digests)
        result.checked += len(digests.tensors)
    else:
        for file in files:
            fault = fault or find_fault(folder, [file], None)
            if fault is None and has_digests(file):
                result.checked += _count_tensors(file)
            elif fault is None:
                result.notes.append(
                    f"{file} was saved without digests, so that flipped bits would not be noticed; load the model and "
                    "save it with save_model to add them."
                )
    if fault is not None:
        raise CheckpointError(fault)
    check_loadable(folder)


def _modules_of(folder: Path, result: Verification) -> list[Path]:
    """Returns the folders of an embedder's modules; a damaged list of them is a fault."""
    try:
        return module_folders(folder)
    except CheckpointError as error:
        result.faults.append(str(error))
        return []


def _verify_module(folder: Path, result: Verification) -> None:
    """Checks the tensors of a module of sentence-transformers, such as a Dense, whose files hold their digests."""
    for file in sorted(folder.glob("*.safetensors")):
        fault = find_fault(folder, [file], None)
        if fault is not None:
            result.faults.append(fault)
        elif has_digests(file):
            result.checked += _count_tensors(file)


def _count_tensors(file: Path) -> int:
    with safe_open(file, framework="pt") as tensors:
        return len(tensors.keys())


def _verify_export(folder: Path, result: Verification) -> None:
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    result.checked += max(0, len(manifest.digests) - 1)
    if not manifest.digests:
        result.notes.append(f"{folder} was exported without digests; export the model again to add them.")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}; export the model again.")
    read_json(folder / CONFIG)


def _verify_calibration(folder: Path, result: Verification) -> None:
    calibration = Calibration.load(folder)
    file = folder / "calibration.safetensors"
    tensors = [*calibration.curvature.values(), *(batch[name] for batch in calibration.batches for name in batch)]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point()):
        raise CheckpointError(f"{file} holds values that are not finite; calibrate again.")
    if has_digests(file):
        with safe_open(file, framework="pt") as stored:
            result.checked += len(stored.keys()) + 1
    else:
        result.notes.append(f"{file} was saved without digests; calibrate again to add them.")


_PARTS = (
    ("model", CONFIG, _verify_model),
    ("export", MANIFEST, _verify_export),
    ("calibration", CALIBRATION, _verify_calibration),
)
"""What a folder may hold: its name, the file that marks it, and its check."""
