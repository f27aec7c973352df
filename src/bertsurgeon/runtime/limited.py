"""Exported graphs as a processor without VNNI computes them.

OpenVINO limits its instructions by ``ONEDNN_MAX_CPU_ISA``, which it reads when it starts. With AVX2 it has neither
AVX-512 nor VNNI, and computes INT8 as an emulated Haswell does (docs/deployment.md). ONNX Runtime has no such switch;
:class:`bertsurgeon.runtime.OnnxSession` selects arithmetic that is the same without VNNI.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bertsurgeon.errors import ExportError
from bertsurgeon.runtime import limited_process
from bertsurgeon.runtime.sessions import Arrays, openvino_settings

ISA_VARIABLE, WITHOUT_VNNI = "ONEDNN_MAX_CPU_ISA", "AVX2"

_NEWER_KERNEL = re.compile(r"avx512\w*_i8|vnni|amx", re.IGNORECASE)


def run_without_vnni(file: Path, batches: Sequence[Arrays], timeout: float | None = None) -> list[Arrays]:
    """Runs an OpenVINO graph in another process, with the instructions of a processor that has AVX2 alone.

    Such a processor computes bf16 graphs in fp32.

    Args:
        file: The graph.
        batches: Inputs by name, for each batch.
        timeout: Seconds after which the process is ended; None for no limit.

    Returns:
        Outputs by name, for each batch.

    Raises:
        ExportError: If the process fails, or OpenVINO ignores the limit.
    """
    environment = {**os.environ, ISA_VARIABLE: WITHOUT_VNNI}
    settings = json.dumps(openvino_settings("fp32", None))
    with TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        arrays = {f"{number}.{name}": value for number, batch in enumerate(batches) for name, value in batch.items()}
        np.savez(inputs, **arrays)  # type: ignore[arg-type]  # NumPy's stub has no keyword arguments of arrays alone
        command = [sys.executable, limited_process.__file__, str(file), settings, str(inputs), str(outputs)]
        try:
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=timeout)
        except (OSError, subprocess.SubprocessError) as error:
            raise ExportError(f"OpenVINO did not run with {ISA_VARIABLE}={WITHOUT_VNNI} ({_cause(error)}).") from error
        with np.load(outputs) as results:
            used = [str(kernel) for kernel in results["kernels"]]
            if newer := next((kernel for kernel in used if _NEWER_KERNEL.search(kernel)), None):
                raise ExportError(f"OpenVINO uses {newer} in spite of {ISA_VARIABLE}={WITHOUT_VNNI}.")
            names = [name for name in results.files if name != "kernels"]
            return [
                {name.partition(".")[2]: results[name] for name in names if name.partition(".")[0] == str(number)}
                for number in range(len(batches))
            ]


def _cause(error: Exception) -> str:
    """Returns the last line of what a failed process printed, or the error."""
    printed = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
    return (printed[-1] if printed else str(error)).rstrip(".")
