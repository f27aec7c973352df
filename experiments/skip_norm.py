"""Whether ONNX Runtime is faster when it fuses an addition with the following LayerNorm; on CPUs it is not.

    python experiments/skip_norm.py

24 additions and norms of 8 x 128 tokens with 768 channels, as in BERT-base: written with ``Add``, which ONNX Runtime
fuses, and with ``Sum``, which it does not (:mod:`bertsurgeon.exporting.onnx_tuning`). Runs are interleaved.
"""

from functools import partial

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from bertsurgeon.benchmark import time_batches
from bertsurgeon.runtime.sessions import OnnxSession
from lib.common import make_parser, parse_arguments
from lib.results_store import ResultsStore

SHAPE = (8, 128, 768)
NORMS = 24


def graph(addition: str) -> bytes:
    """Returns a serialized model whose additions are of this kind of node."""
    constants = [
        numpy_helper.from_array(np.ones(SHAPE[-1], np.float32), "weight"),
        numpy_helper.from_array(np.zeros(SHAPE[-1], np.float32), "bias"),
    ]
    nodes = []
    for number in range(NORMS):
        nodes.append(helper.make_node(addition, [f"x{number}", "skip"], [f"sum{number}"]))
        norm = [f"sum{number}", "weight", "bias"]
        nodes.append(helper.make_node("LayerNormalization", norm, [f"x{number + 1}"], axis=-1, epsilon=1e-12))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in names]
        for names in (("x0", "skip"), (f"x{NORMS}",))
    )
    whole = helper.make_graph(nodes, addition, inputs, outputs, constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def main() -> None:
    results = ResultsStore("skip_norm", parse_arguments(make_parser(__doc__)))
    generator = np.random.default_rng(0)
    x, skip = (torch.from_numpy(generator.standard_normal(SHAPE, np.float32)) for _ in range(2))
    sessions = {addition: OnnxSession(graph(addition)) for addition in ("Add", "Sum")}

    def run(addition: str, input_ids: torch.Tensor) -> None:
        sessions[addition].run({"x0": input_ids.numpy(), "skip": skip.numpy()})

    def measure() -> dict[str, object]:
        times = time_batches({name: partial(run, name) for name in sessions}, [{"input_ids": x}], runs=40)
        return {
            "onnxruntime": onnxruntime.__version__,
            "milliseconds": {name: latency.p50_ms for name, latency in times.items()},
        }

    results.run("8x128x768", measure, {"shape": list(SHAPE), "norms": NORMS}, seed=0)


if __name__ == "__main__":
    main()
