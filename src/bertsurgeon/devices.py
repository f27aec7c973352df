"""Where models run: on the accelerator of the machine if there is one, else on the CPU, or where the caller asks."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from bertsurgeon.errors import OptionError

M = TypeVar("M")

Device = str | torch.device
"""``cpu``, ``cuda``, ``cuda:1``, ``mps`` …, or an object of PyTorch."""

_default: torch.device | None = None  # what set_default_device() was given


def choose_device(device: Device | None = None) -> torch.device:
    """Returns a device of this machine.

    Args:
        device: Its name; None for the default (:func:`set_default_device`): the accelerator if there is one, else the
            CPU.

    Raises:
        OptionError: If there is no such device, or this machine has none.
    """
    if device is None:
        return _default or _accelerator() or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError) as error:
        accelerator = _accelerator()
        names = "cpu" if accelerator is None else f"cpu or {accelerator.type}"
        raise OptionError(f"This machine has no device {str(device)!r} that PyTorch can use; name {names}.") from error
    if chosen.type == "meta":
        raise OptionError("The device meta holds no numbers; name cpu, or leave the device out.")
    return chosen


def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def set_default_device(device: Device | None) -> None:
    """Sets the device that is used where none is named, in this process.

    Args:
        device: Its name; None for the accelerator if there is one, else the CPU.

    Raises:
        OptionError: If there is no such device.
    """
    global _default
    _default = None if device is None else choose_device(device)


@contextmanager
def running_on(device: Device | None, *models: object) -> Iterator[torch.device]:
    """Moves models to a device for the duration of a ``with`` block, in place; afterwards they are where they were.

    Args:
        device: Where they run; None for the device of the first model if that is no CPU, else for the default.
        *models: PyTorch models; anything else, such as an exported model, stays where it is.

    Raises:
        OptionError: If there is no such device.
    """
    networks = [model for model in models if isinstance(model, torch.nn.Module)]
    homes = [next(model.parameters()).device for model in networks]
    elsewhere = homes[0] if homes and homes[0].type != "cpu" else None
    target = choose_device(device if device is not None else elsewhere)
    try:
        for model in networks:
            move(model, target)
        yield target
    finally:
        for model, home in zip(networks, homes, strict=True):
            move(model, home)


def move(model: M, device: torch.device) -> M:
    """Moves a model to a device, in place, and returns it."""
    if isinstance(model, torch.nn.Module):
        torch.nn.Module.to(model, device)  # transformers wraps Module.to, and forbids it for quantized models
    return model


def on_cpu(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a model on the CPU: itself, or a copy."""
    return model if model.device.type == "cpu" else move(deepcopy(model), torch.device("cpu"))


_INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "sve",
)


def instruction_sets() -> list[str]:
    """Returns the instruction sets of the processor that matter to encoders; none if the system does not name them."""
    flags = (read_cpuinfo("flags", "Features") or "").split()
    return [name for name in _INSTRUCTION_SETS if name in flags]


def read_cpuinfo(*names: str) -> str | None:
    """Returns the first field of ``/proc/cpuinfo`` with one of these names, or None if the system has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), None)


def has_fast_bf16(device: torch.device) -> bool:
    """Returns whether the CPU has instructions for bfloat16; False for any other device, which is fast enough."""
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & set(instruction_sets()))
