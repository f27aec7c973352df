"""How much memory a model takes, each in a process of its own.

python -m bertsurgeon.benchmark.memory FOLDER BATCH_SIZE LENGTH
"""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from bertsurgeon.benchmark.contenders import open_contender
from bertsurgeon.benchmark.flops import random_inputs

_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes per unit of ``ru_maxrss``."""


def measure_memory(name: str, batch_size: int, length: int) -> int | None:
    """Peak bytes a model adds to a process that has the libraries loaded; None where that cannot be found out.

    Args:
        name: As for :func:`open_contender`.
        batch_size: Texts in the batch it runs on.
        length: Tokens of each text.
    """
    command = [sys.executable, "-m", "bertsurgeon.benchmark.memory", name, str(batch_size), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(json.loads(done.stdout.splitlines()[-1])["bytes"])
    except (IndexError, ValueError, KeyError):
        return None


def _peak() -> int:
    """Of this process; on Linux what ``getrusage`` says includes the process that started it."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _main(name: str, batch_size: int, length: int) -> None:
    before = _peak()
    contender = open_contender(name)
    inputs = random_inputs([contender.model], batch_size, length)
    with torch.inference_mode():
        contender.model(**inputs)
    print(json.dumps({"bytes": _peak() - before}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
