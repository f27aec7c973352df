"""A model in its runtime for a moment, to be timed: outputs are not compared, and no file stays."""

from dataclasses import replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel

from bertsurgeon.benchmark import measure_sizes
from bertsurgeon.calibration import Batch
from bertsurgeon.exporting.config import ExportConfig
from bertsurgeon.exporting.folder import OUTPUTS
from bertsurgeon.exporting.lowering import Graph, lower
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.verify import reference
from bertsurgeon.exporting.write import Job, write
from bertsurgeon.prediction import evaluating
from bertsurgeon.runtime import MODEL_FILES, Manifest, RuntimeModel, open_session


def open_trial(model: PreTrainedModel, config: ExportConfig, batch: Batch) -> RuntimeModel:
    """A model as it runs once it is exported.

    Args:
        model: Dense or pruned; what its weights are does not matter.
        config: Runtime and precision. INT8 is static.
        batch: Inputs as they will come; INT8 finds its ranges on them.

    Raises:
        ExportError: If the model cannot be traced, or a package is missing.
    """
    config = replace(config, quantization="static" if config.precision == "int8" else None, tolerance=inf)
    inputs = tuple(batch)
    with evaluating(model), TemporaryDirectory() as folder:
        outputs, wanted = reference(model, [batch], OUTPUTS)
        file = Path(folder) / MODEL_FILES[config.runtime]
        write(
            trace(Graph(lower(model), inputs, outputs), config.opset),
            file,
            Job(config, model, [batch], [batch], inputs, wanted),
        )
        session = open_session(config.runtime, file, config.precision)
    weights = measure_sizes(model).encoder_weights
    return RuntimeModel(session, Manifest(config.runtime, config.precision, inputs, outputs, weights), model.config)
