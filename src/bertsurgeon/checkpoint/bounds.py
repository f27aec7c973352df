"""Bounds on what a configuration may ask for, from the headers of the weights beside it, before anything is built."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig

from bertsurgeon.checkpoint.checks import FAULTS, unusable_model
from bertsurgeon.errors import CheckpointError, PlanError
from bertsurgeon.files import DamagedFileError, read_json
from bertsurgeon.plan import check_channels

INDEX = "model.safetensors.index.json"
"""Name of the file that lists the shards of a large model."""

NEW_WEIGHTS = 2**22
"""Weights that a dense model may have beyond the bytes of its files: a new head, and a pooler."""


MOST_LAYERS = 1000
"""Most layers of a model whose weights are in PyTorch's own format, which has no header to compare with."""


class WithoutWeights(TorchFunctionMode):
    """Modules that are built inside this context allocate their buffers, but no memory for their weights."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Lets ``torch.empty``, from which modules make weights, return tensors without memory."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes in the header of a safetensors file, by name."""
    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def stored_types(file: Path) -> dict[str, str]:
    """Returns the types in the header of a safetensors file, such as ``F32``, by name."""
    with safe_open(file, framework="pt") as tensors:
        return {name: str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118


def check_types(folder: Path) -> None:
    """Checks that no weight of a dense model is stored as whole numbers, which transformers would take for weights.

    Raises:
        CheckpointError: Naming the first one.
    """
    for file in sorted(folder.glob("*.safetensors")):
        for name, kind in stored_types(file).items():
            if not is_float(kind) and name.endswith((".weight", ".LayerNorm.bias", ".dense.bias", "classifier.bias")):
                raise CheckpointError(f"{file} holds {name} as {kind} instead of floating point; copy the model again.")


def is_float(kind: str) -> bool:
    """Returns whether a type in a header is one of floating point."""
    return kind.startswith(("F", "BF"))


def check_plan_size(folder: Path, entry: dict[str, Any]) -> None:
    """Checks the plain data of a plan against the size of the weights: every channel it names has some there.

    Raises:
        CheckpointError: If the plan names more channels than the weights have bytes.
    """
    try:
        check_channels(entry, _size(_weight_files(folder)))
    except PlanError as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: {error}") from error


def check_layers(folder: Path, config: PretrainedConfig) -> None:
    """Checks the number of layers against the number of tensors in the files: every layer has one at least.

    Raises:
        CheckpointError: If the configuration has more layers than that, or a number that is none.
    """
    files = _weight_files(folder)
    if not files:
        return
    tensors = [file for file in files if file.suffix == ".safetensors"]
    most = sum(len(stored_shapes(file)) for file in tensors) if tensors else MOST_LAYERS
    count: Any = getattr(config, "num_hidden_layers", 0)
    if not isinstance(count, int) or count > most:
        raise CheckpointError(
            f"The config.json of {folder} has {str(count)[:20]} layers, its weights have fewer; copy the model again."
        )


def check_dense_size(folder: Path, head: type[Any], config: PretrainedConfig) -> None:
    """Checks the number of weights that a dense model needs against the size of its files, without memory for them.

    Args:
        folder: Folder of the model, whose headers are valid.
        head: Class of the model, or an Auto class.
        config: Its configuration.

    Raises:
        CheckpointError: If it needs more weights than its files have bytes, or no model can be made of it.
    """
    check_layers(folder, config)
    check_types(folder)
    try:
        with torch.device("meta"):
            model: nn.Module = head.from_config(config) if hasattr(head, "from_config") else head(config)
    except FAULTS as error:
        raise unusable_model(folder, error) from error
    weights, files = sum(parameter.numel() for parameter in model.parameters()), _weight_files(folder)
    if files and weights > _size(files) + NEW_WEIGHTS:
        raise CheckpointError(
            f"The config.json of {folder} describes {weights:,} weights, its files {_size(files):,} bytes; copy the "
            "model again."
        )


def check_shards(folder: Path) -> None:
    """Checks that the index of a model in several files names only files of its folder.

    Raises:
        CheckpointError: If it names another file, or is damaged.
    """
    for index in (folder / INDEX, folder / "pytorch_model.bin.index.json"):
        if not index.is_file():
            continue
        try:
            files = read_json(index).get("weight_map")
        except (OSError, DamagedFileError) as error:
            raise CheckpointError(f"{index} is damaged ({error}); copy it again.") from error
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise CheckpointError(f"{index} is damaged (it has no weight_map); copy it again.")
        foreign = next((file for file in files.values() if Path(file).name != file), None)
        if foreign is not None:
            raise CheckpointError(
                f"{index} names {foreign[:80]}, which is outside of its folder; copy the model again from its source."
            )


def check_archives(folder: Path) -> None:
    """Checks that weights in PyTorch's own format are not compressed: PyTorch never does that, and bombs do.

    Raises:
        CheckpointError: If they are.
    """
    for path in sorted(folder.glob("*.bin")):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise CheckpointError(f"{path} is compressed, which PyTorch's files never are; copy it again.")


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    return files or sorted(folder.glob("pytorch_model*.bin"))


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)
