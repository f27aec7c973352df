"""The work folder of a search: everything that took time, keyed by what made it, so that nothing is done twice.

A killed search is continued by the same command: each entry is complete or absent. A search with another bound uses
what it can of an earlier one. Wall-clock times are entries, too, as decisions depend on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bertsurgeon.benchmark import environment
from bertsurgeon.checkpoint import (
    check_work_folder,
    holds_search,
    lock_outputs,
    new_folder,
    new_work_folder,
    write_report,
)
from bertsurgeon.errors import CheckpointError
from bertsurgeon.files import read_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

FILES = ("calibration-*/", "candidate-*/", "training-*/", "values.json", "lock")
"""What a search keeps in its work folder; names that end in a slash are folders."""

ENTRY = "entry.json"
"""File of a candidate with what was measured."""

_CHANGED_BY_SAVING = ("_name_or_path", "architectures", "dtype", "transformers_version")

_PACKAGES = {"pytorch": (), "onnx": ("onnxruntime",), "openvino": ("openvino",)}

_VALUES = "values.json"


class WorkFolder:
    """A work folder, which a single process uses at a time.

    Args:
        folder: The folder; see :meth:`beside`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def beside(cls, output: Path) -> WorkFolder:
        """Returns the work folder of an output folder."""
        output = Path(os.path.abspath(output))
        return cls(output.with_name(f"{output.name}.search"))

    def check(self, inputs: Sequence[Path] = ()) -> None:
        """Checks that the folder is absent or that of a search.

        Raises:
            CheckpointError: If it holds anything else, or cannot be written.
        """
        check_work_folder(self.folder, keep=holds_search(self.folder), inputs=inputs, kind="search")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Makes the folder if it is absent, and keeps other processes out of it by the lock of the output folder.

        Raises:
            CheckpointError: If another process uses it, or it cannot be written.
        """
        with lock_outputs(self.folder):
            if not holds_search(self.folder):
                new_work_folder(self.folder, kind="search", files=FILES)
            self._remove_unfinished()
            yield

    def _remove_unfinished(self) -> None:
        """Removes candidates that a killed process had begun to write."""
        for folder in self.folder.glob(".*.bertsurgeon-new-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def path(self, kind: str, key: str) -> Path:
        """Returns the folder of an entry: ``candidate-<key>``, ``calibration-<key>`` or ``training-<key>``."""
        return self.folder / f"{kind}-{key}"

    def value(self, key: str, make: Callable[[], Any]) -> Any:
        """Returns a stored value; makes and stores it if it is absent.

        Args:
            key: What the value depends on, see :func:`key_of`.
            make: Returns the value, as plain data.
        """
        file = self.folder / _VALUES
        try:
            values = _read_object(file)
        except FileNotFoundError:
            values = {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} is damaged; remove {self.folder} to start the search anew.") from error
        if key not in values:
            values[key] = make()
            write_report(file, values)
        return values[key]

    @contextmanager
    def new_candidate(self, key: str) -> Iterator[Path]:
        """Yields a folder for a candidate, which becomes visible when the block ends."""
        with new_folder(self.path("candidate", key), kind="search") as folder:
            yield folder

    def read_candidate(self, key: str) -> dict[str, Any] | None:
        """Returns what was measured of a candidate; None if it is absent.

        Raises:
            CheckpointError: If it is damaged.
        """
        file = self.path("candidate", key) / ENTRY
        if not file.is_file():
            return None
        try:
            entry = _read_object(file)
            if not {"spec", "seconds", "error"} <= entry.keys():
                raise ValueError("values are missing")
            return entry
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} is damaged; remove {file.parent} to measure this model again.") from error


def _read_object(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(file)
    return content


def setting_key(model: PreTrainedModel, runtime: str) -> str:
    """Returns a hash of what checkpoints, exports and times depend on beside weights, data and options.

    Args:
        model: The dense model; its configuration counts, as names of classes do, but not its folder.
        runtime: The runtime, whose version counts.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name not in _CHANGED_BY_SAVING}
    packages = ("bertsurgeon", "torch", "transformers", *_PACKAGES[runtime])
    machine = environment()
    hardware = [machine[name] for name in ("processor", "threads")] + [machine["accelerator"]] * (runtime == "pytorch")
    return key_of(config, {name: version(name) for name in packages}, *hardware)


def key_of(*parts: Any) -> str:
    """Returns a short hash of plain data, dataclasses and tensors."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **asdict(value)}
    return str(value)


def digest_of(dataset: Dataset) -> str:
    """Returns a hash of a tokenized dataset's rows and columns."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(dataset.column_names):
        digest.update(name.encode())
        for row in dataset[name]:
            digest.update(json.dumps(row, default=str).encode())
    return digest.hexdigest()


def save_outputs(file: Path, outputs: Sequence[Mapping[str, Tensor]]) -> None:
    """Writes a model's outputs for all rows; see :func:`load_outputs`.

    Args:
        file: A new safetensors file.
        outputs: Outputs by name, for each row.
    """
    tensors = {}
    for name in outputs[0]:
        rows = [row[name] for row in outputs]
        tensors[name] = torch.cat([row.flatten() for row in rows])
        tensors[f"{name}.shapes"] = torch.tensor([list(row.shape) for row in rows], dtype=torch.int64)
    save_file(tensors, file)


def load_outputs(file: Path) -> list[dict[str, Tensor]]:
    """Reads what :func:`save_outputs` wrote.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        tensors = load_file(file)
        names = [name for name in tensors if f"{name}.shapes" in tensors]
        columns = {}
        for name in names:
            shapes = [tuple(shape) for shape in tensors[f"{name}.shapes"].tolist()]
            sizes = [int(torch.Size(shape).numel()) for shape in shapes]
            parts = tensors[name].split(sizes)
            columns[name] = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is damaged; remove the folder {file.parent} to measure this model again."
        ) from error
