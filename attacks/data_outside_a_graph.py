"""A graph whose weights are, by its own word, in a file outside of its folder."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bertsurgeon import open_exported
from bertsurgeon.runtime import MANIFEST
from common import SMALL_MANIFEST, dense, main, refused


def attack(folder: Path) -> list[str]:
    lines = []
    (folder / "secret").write_bytes(bytes(range(64)))
    export = dense(folder / "export")
    for location in ("../secret", str(folder / "secret")):
        weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "64"}.items():
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.FLOAT, [4, 4])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4, 4])]
        graph = helper.make_graph(
            [helper.make_node("Add", ["input_ids", "w"], ["logits"])], "g", inputs, outputs, [weight]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        (export / "model.onnx").write_bytes(model.SerializeToString())
        assert onnx.load(export / "model.onnx", load_external_data=False).graph.initializer[0].external_data
        (export / MANIFEST).write_text(json.dumps(SMALL_MANIFEST))
        lines.append(refused(f"weights in {location[:12]}…", lambda: open_exported(export)))
    return lines


if __name__ == "__main__":
    main(attack)
