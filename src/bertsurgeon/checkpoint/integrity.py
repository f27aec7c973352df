"""Digests of a model's files: checked when it is loaded, and added to the files of dense models when they are saved."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bertsurgeon.errors import CheckpointError, first_line
from bertsurgeon.files import METADATA, DamagedFileError, Digests, read_json, read_tensor_digests, sealed_digests

CONFIG = "config.json"


def check_digests(folder: Path, files: Sequence[Path], digests: Digests) -> None:
    """Checks the files of a model against the digests with which it was saved.

    Args:
        folder: Folder of its ``config.json``.
        files: Its safetensors files.
        digests: The digests.

    Raises:
        CheckpointError: Naming the first tensor, or entry of ``config.json``, that is not as it was saved.
    """
    fault = find_fault(folder, files, digests)
    if fault is not None:
        raise CheckpointError(fault)


def check_sealed(folder: Path) -> None:
    """Checks all safetensors files of a folder that hold their own digests, see :func:`seal`.

    Raises:
        CheckpointError: Naming the first tensor, or entry of ``config.json``, that is not as it was saved.
    """
    for file in sorted(folder.glob("*.safetensors")):
        fault = find_fault(folder, [file], None)
        if fault is not None:
            raise CheckpointError(fault)


def find_fault(folder: Path, files: Sequence[Path], digests: Digests | None) -> str | None:
    """Returns a sentence about the first fault of a model's files, or None.

    Args:
        folder: Folder of its ``config.json``.
        files: Its safetensors files.
        digests: Digests of the model; None for those that each file holds itself, if it does.
    """
    try:
        tensors, stored = read_tensor_digests(files)
    except (SafetensorError, OSError, DamagedFileError) as error:
        names = " or ".join(str(file) for file in files)
        return f"{names} is damaged or truncated ({first_line(error)}); copy it again."
    for expected in [digests] if digests is not None else stored:
        fault = expected.tensor_fault(tensors)
        if fault is not None:
            return f"The weights in {folder} are damaged: {fault}; copy the model again."
        values = _read_config(folder)
        entry = None if values is None else expected.config_fault(values)
        if entry is not None:
            return (
                f"The entry {entry} of {folder / CONFIG} is not as it was saved; copy the file again, or change the "
                "configuration of the loaded model and save that."
            )
    return None


def has_digests(file: Path) -> bool:
    """Returns whether a safetensors file holds its own digests.

    Raises:
        SafetensorError: If its header is damaged.
        OSError: If it cannot be read.
    """
    return METADATA in (_read_header(file)[0].get("__metadata__") or {})


def seal(folder: Path) -> None:
    """Adds digests to the metadata of all safetensors files in a folder that has just been written.

    Files of pruned and sparse models are left as they are: their digests are in ``config.json``.

    Args:
        folder: The folder; folders inside it, as of modules of sentence-transformers, are included.
    """
    for file in sorted(folder.rglob("*.safetensors")):
        values = _read_config(file.parent) or {}
        if "digests" in (values.get("quantization_config") or {}):
            continue
        tensors, _ = read_tensor_digests([file])
        header, start = _read_header(file)
        digests = Digests(tensors, sealed_digests(values))
        metadata = {**(header.pop("__metadata__", None) or {}), METADATA: json.dumps(digests.to_dict())}
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
        new = file.with_name(f"{file.name}.new")
        with file.open("rb") as source, new.open("wb") as target:
            source.seek(start)
            target.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, target, 2**22)
        new.chmod(file.stat().st_mode)
        new.replace(file)


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """Returns the header of a safetensors file that was found valid, and where its tensors begin."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        return json.loads(stream.read(size)), 8 + size


def _read_config(folder: Path) -> dict[str, Any] | None:
    """Returns the ``config.json`` of a folder; None if it is missing or damaged, which other checks report.

    Raises:
        OSError: If the disk cannot read it: without it, a folder would be sealed without its digests.
    """
    try:
        content: dict[str, Any] = read_json(folder / CONFIG)
    except (FileNotFoundError, NotADirectoryError, DamagedFileError):
        return None
    return content
