"""Entries of a benchmark: models in PyTorch and exported folders, ready to run."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bertsurgeon.benchmark.footprint import count_flops, fitting_length, folder_size, measure_sizes
from bertsurgeon.checkpoint import get_plan, load_model
from bertsurgeon.devices import Device, choose_device, move
from bertsurgeon.errors import OptionError
from bertsurgeon.layers import prepare_for_inference
from bertsurgeon.runtime import RUNTIME_NAMES, is_exported, open_exported

MODES = ("bf16", "compile")
"""Suffixes of a folder's name that select how PyTorch runs the model."""

FLOPS_LENGTH = 128
"""Tokens of the text whose floating-point operations are counted."""

_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class BenchmarkEntry:
    """A model that is ready to run.

    Attributes:
        model: Callable that takes padded inputs; has a ``config``.
        runtime: ``PyTorch``, ``PyTorch compiled``, ``ONNX Runtime`` or ``OpenVINO``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        file_bytes: Size of its weight files; None for a model in memory.
        encoder_weights: Weights of the encoder's matrices.
        flops: Floating-point operations of one text of 128 tokens (or as many as the model accepts); None for exported
            models.
        name: The name it was opened by; None for a model in memory.
    """

    model: Any
    runtime: str
    precision: str
    file_bytes: int | None
    encoder_weights: int
    flops: int | None
    name: str | None = None


def split_modes(name: str) -> tuple[str, list[str]]:
    """Splits a name into the model's name, in which an ``@`` is a letter like others, and the modes of its suffixes.

    Args:
        name: Folder or hub id, with or without suffixes. An existing folder has none, whatever its name.
    """
    modes: list[str] = []
    while not Path(name).exists() and name.rpartition("@")[2] in MODES and "@" in name:
        name, _, mode = name.rpartition("@")
        modes.insert(0, mode)
    return name, modes


def open_entry(name: str, threads: int | None = None, device: Device | None = None) -> BenchmarkEntry:
    """Opens a model by name.

    Args:
        name: A model folder, an exported folder or a hub id. The suffixes ``@bf16`` and ``@compile`` (or both) run a
            PyTorch model in bfloat16, or compiled.
        threads: Threads of a runtime other than PyTorch; None for all cores.
        device: Where a PyTorch model runs; None for the accelerator of the machine, if it has one.

    Raises:
        OptionError: If a mode is unknown, or an exported folder is given a mode.
        BertSurgeonError: If there is no such model.
    """
    path, modes = split_modes(name)
    if not path or ("@" in path and not Path(path).exists()):
        raise OptionError(f"{name!r} is not a model; use FOLDER or, for PyTorch models, FOLDER@bf16 or FOLDER@compile.")
    size = folder_size(Path(path)) if Path(path).is_dir() else None
    if is_exported(path):
        if modes:
            raise OptionError(
                f"{path} is an exported model with a fixed precision; remove @{modes[0]}, which applies to PyTorch "
                "models only."
            )
        exported = open_exported(path, threads)
        runtime = RUNTIME_NAMES[exported.manifest.runtime]
        return BenchmarkEntry(
            exported, runtime, exported.manifest.precision, size, exported.manifest.encoder_weights, None, name
        )
    return _make_entry(move(load_model(path), choose_device(device)).eval(), modes, size, name)


def entry_from_model(model: PreTrainedModel, device: Device | None = None) -> BenchmarkEntry:
    """Makes an entry of a copy of a model in memory; the copy is prepared for inference.

    Args:
        model: Dense or pruned; left as it is.
        device: Where it runs; None for its own device.
    """
    copy = deepcopy(model).eval()
    return _make_entry(copy if device is None else move(copy, choose_device(device)), (), None, None)


def _make_entry(model: Any, modes: Sequence[str], size: int | None, name: str | None) -> BenchmarkEntry:
    weights = measure_sizes(model).encoder_weights
    if get_plan(model) is not None:  # dense models run the way other libraries run them
        prepare_for_inference(model)
    flops = count_flops(model, 1, fitting_length([model], FLOPS_LENGTH))
    if "bf16" in modes:
        nn.Module.to(model, torch.bfloat16)
    if "compile" in modes:
        model.forward = torch.compile(model.forward, dynamic=True)
    runtime = "PyTorch compiled" if "compile" in modes else "PyTorch"
    precision = _PRECISIONS.get(model.dtype, str(model.dtype).removeprefix("torch."))
    return BenchmarkEntry(model, runtime, precision, size, weights, flops, name)
