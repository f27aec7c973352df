"""Who takes part in a comparison: models in PyTorch, in the precision asked for, and exported folders."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bertsurgeon.benchmark.flops import count_flops, fitting_length
from bertsurgeon.benchmark.size import folder_size, measure_sizes
from bertsurgeon.checkpoint import get_plan, load_model
from bertsurgeon.errors import OptionError
from bertsurgeon.layers import prepare_for_inference
from bertsurgeon.runtime import is_exported, open_exported

MODES = ("bf16", "compile")

_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class BenchmarkEntry:
    """A model that is ready to run.

    Attributes:
        model: Called with padded inputs; has a ``config``.
        runtime: ``PyTorch``, ``PyTorch compiled``, ``ONNX Runtime`` or ``OpenVINO``.
        precision: What it computes in.
        file_bytes: Its files' size, if it comes from a folder.
        encoder_weights: Weights of the encoder's matrices.
        flops: Of one text of 128 tokens, for models in PyTorch.
    """

    model: Any
    runtime: str
    precision: str
    file_bytes: int | None
    encoder_weights: int
    flops: int | None


def open_contender(name: str, threads: int | None = None) -> BenchmarkEntry:
    """Opens ``FOLDER``, ``FOLDER@bf16``, ``FOLDER@compile`` or ``FOLDER@bf16@compile``; the latter three in PyTorch.

    Raises:
        OptionError: If a mode is unknown, or given for an exported folder.
        BertSurgeonError: If there is no such model.
    """
    path, *modes = name.split("@")
    if not path or any(mode not in MODES for mode in modes):
        raise OptionError(f"{name!r} names no model; write FOLDER, or FOLDER@bf16, FOLDER@compile for PyTorch models.")
    size = folder_size(Path(path)) if Path(path).is_dir() else None
    if is_exported(path):
        if modes:
            raise OptionError(f"{path} was exported in one precision; @{modes[0]} is for PyTorch models.")
        exported = open_exported(path, threads)
        runtime = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[exported.manifest.runtime]
        return BenchmarkEntry(
            exported, runtime, exported.manifest.precision, size, exported.manifest.encoder_weights, None
        )
    return _prepared(load_model(path).eval(), modes, size)


def in_pytorch(model: PreTrainedModel) -> BenchmarkEntry:
    """A copy of a model at hand, ready to run: some layers change for it."""
    return _prepared(deepcopy(model).eval(), (), None)


def _prepared(model: Any, modes: Sequence[str], size: int | None) -> BenchmarkEntry:
    weights = measure_sizes(model).encoder_weights
    if get_plan(model) is not None:  # dense ones run as everybody has them
        prepare_for_inference(model)
    flops = count_flops(model, 1, fitting_length([model], 128))
    if "bf16" in modes:
        nn.Module.to(model, torch.bfloat16)
    if "compile" in modes:
        model.forward = torch.compile(model.forward, dynamic=True)
    runtime = "PyTorch compiled" if "compile" in modes else "PyTorch"
    precision = _PRECISIONS.get(model.dtype, str(model.dtype).removeprefix("torch."))
    return BenchmarkEntry(model, runtime, precision, size, weights, flops)
