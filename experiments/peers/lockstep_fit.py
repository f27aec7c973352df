"""The last matrix of every sub-layer in turn, with what a peer fits it to, from the input of a model to its output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch
from bertsurgeon.compensation.lockstep import (
    LayerInputs,
    Stage,
    Tracker,
    first_layer_inputs,
    lockstep,
    track_input,
    track_target,
)
from bertsurgeon.plan import sub_layer_of
from peers.units import Key, UnitView


@dataclass(frozen=True)
class LastMatrix:
    """The last matrix of a sub-layer, when everything before it is pruned.

    Attributes:
        key: The sub-layer.
        stage: Its stage.
        layer_inputs: Inputs of its layer, batch by batch.
        paths: Paths from the layer to the matrix, and to a module whose input is the residual stream.
    """

    key: Key
    stage: Stage
    layer_inputs: Sequence[LayerInputs]
    paths: tuple[str, str]

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, batch by batch, the pruned model's inputs and the outputs that restore the dense residual stream.

        Shapes (real tokens, in) and (real tokens, hidden); the outputs are without the bias.
        """
        matrix, residual = self.paths
        for inputs in self.layer_inputs:
            if self.key[1] == "feed_forward":
                inputs.keep_attention(self.stage.pruned)
            values = inputs.pruned_inputs(self.stage.pruned, self.paths)
            yield values[matrix], inputs.tracked[matrix] + (inputs.tracked[residual] - values[residual])


def last_matrices(model: PreTrainedModel, view: UnitView, batches: Sequence[Batch]) -> Iterator[LastMatrix]:
    """Yields the last matrix of every sub-layer; it may be changed before the next one is asked for.

    Args:
        model: The dense model.
        view: Units of the pruned model.
        batches: Calibration texts.
    """
    dense = Encoder(model)
    architecture = dense.architecture
    layer_inputs = list(first_layer_inputs(model, batches))
    paths = {
        name: (architecture.matrices[roles[-1]], architecture.residual(name))
        for name, roles in dense.sub_layers.items()
    }
    trackers: dict[str, Tracker] = {}
    for matrix, residual in paths.values():
        trackers |= {residual: track_input, matrix: track_target}
    for stage in lockstep(dense, view.encoder, layer_inputs, lambda _: trackers):
        sub_layer = sub_layer_of(stage.roles[0])
        if dense.last_role(sub_layer) in stage.roles:
            yield LastMatrix((stage.layer, sub_layer), stage, layer_inputs, paths[sub_layer])
