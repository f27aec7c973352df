"""Script that runs an OpenVINO graph in a process of its own; it imports neither torch nor this package.

Arguments: file of the graph, settings as JSON, file with the inputs (.npz), file for the outputs (.npz). Arrays are
named ``NUMBER.NAME``, by batch. ``kernels`` in the outputs are the kernels that OpenVINO chose.
"""

import json
import sys
from typing import Any

import numpy as np


def main(graph: str, settings: str, inputs: str, outputs: str) -> None:
    """Runs all batches."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", json.loads(settings))
    request = compiled.create_infer_request()
    batches: dict[str, dict[str, Any]] = {}
    for key, array in np.load(inputs).items():
        number, _, name = key.partition(".")
        batches.setdefault(number, {})[name] = array
    results: dict[str, Any] = {"kernels": np.array(kernels(compiled))}
    for number, batch in batches.items():
        arrays = request.infer(batch)
        for index, output in enumerate(compiled.outputs):
            for name in output.names:  # an output may have several
                results[f"{number}.{name}"] = np.array(arrays[index])
    np.savez(outputs, **results)


def kernels(compiled: Any) -> list[str]:
    """Returns the kernels of a compiled graph, such as ``jit_avx512_i8``, each once."""
    operations = compiled.get_runtime_model().get_ordered_ops()
    infos = [operation.get_rt_info() for operation in operations]
    return sorted({str(info["primitiveType"].value) for info in infos if "primitiveType" in info})


if __name__ == "__main__":
    main(*sys.argv[1:])
