"""Peak memory of a model, measured in a process of its own.

python -m bertsurgeon.benchmark.memory NAME BATCH_SIZE LENGTH DEVICE
"""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from bertsurgeon.benchmark.entries import open_entry
from bertsurgeon.benchmark.footprint import random_inputs
from bertsurgeon.devices import Device, choose_device

_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes per unit of ``ru_maxrss``."""


def measure_memory(name: str, batch_size: int, length: int, device: Device | None = None) -> int | None:
    """Measures the peak memory that a model adds to a process in which the libraries are loaded.

    On a GPU it is the memory of the GPU that the model and its activations take.

    Args:
        name: Name of the model, see :func:`open_entry`.
        batch_size: Texts in the batch.
        length: Tokens of each text.
        device: Where a PyTorch model runs; None for the default.

    Returns:
        Memory in bytes; None if the process failed.
    """
    arguments = [name, str(batch_size), str(length), str(choose_device(device))]
    command = [sys.executable, "-m", "bertsurgeon.benchmark.memory", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(json.loads(process.stdout.splitlines()[-1])["bytes"])
    except (IndexError, ValueError, KeyError):
        return None


def _peak_memory() -> int:
    """Returns the peak memory of this process in bytes.

    On Linux it is read from ``/proc``, because ``getrusage`` includes the parent process there.
    """
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return 1024 * int(match[1]) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT


def _main(name: str, batch_size: int, length: int, device: str) -> None:
    before = _peak_memory()
    entry = open_entry(name, device=device)
    inputs = random_inputs([entry.model], batch_size, length)
    on_gpu = torch.device(entry.model.device).type == "cuda"
    with torch.inference_mode():
        entry.model(**{key: value.to(entry.model.device) for key, value in inputs.items()})
    print(json.dumps({"bytes": torch.cuda.max_memory_allocated() if on_gpu else _peak_memory() - before}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
