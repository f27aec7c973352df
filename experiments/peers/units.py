"""Heads and neurons of an encoder as units: their gradients, their outputs, and their removal by zeros."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, token_mask
from bertsurgeon.calibration.gradients import backpropagate, backward_leaf, gradient_hooks, summed_loss
from bertsurgeon.plan import SubLayerName

Key = tuple[int, SubLayerName]
Units = dict[Key, Tensor]
"""A number, or a truth value, for every unit of every sub-layer, shapes (units,)."""


@dataclass(frozen=True)
class UnitView:
    """The units of a dense encoder.

    Attributes:
        encoder: The encoder.
    """

    encoder: Encoder

    @property
    def keys(self) -> list[Key]:
        """All sub-layers, from the input to the output."""
        return [
            (layer, sub_layer) for layer in range(len(self.encoder.layers)) for sub_layer in self.encoder.sub_layers
        ]

    def width(self, key: Key) -> int:
        """Returns the channels of one unit."""
        return self.encoder.unit_width(key[1])

    def cost(self, key: Key) -> int:
        """Returns the weights of one unit, in all matrices of its sub-layer: those that its removal removes."""
        layer, sub_layer = key
        roles = self.encoder.sub_layers[sub_layer]
        inputs = self.encoder.linear(layer, roles[-1]).in_features
        return sum(self.encoder.weight(layer, role).numel() for role in roles) * self.width(key) // inputs

    def last_weight(self, key: Key) -> Tensor:
        """Returns the weight that reads the units, shape (hidden, units · width)."""
        return self.encoder.weight(key[0], self.encoder.last_role(key[1]))

    def sum_units(self, channels: Tensor, key: Key) -> Tensor:
        """Sums over the channels of each unit: shape (…, units · width) becomes (…, units)."""
        sums: Tensor = channels.unflatten(-1, (-1, self.width(key))).sum(-1)
        return sums

    def count(self, kept: Units) -> int:
        """Returns the weights of kept units."""
        return sum(int(kept[key].sum()) * self.cost(key) for key in self.keys)

    def total(self) -> int:
        """Returns the weights of all units."""
        return sum(
            self.encoder.weight(layer, role).numel()
            for layer in range(len(self.encoder.layers))
            for role in self.encoder.roles
        )


def copy_encoder(model: PreTrainedModel) -> tuple[PreTrainedModel, UnitView]:
    """Returns a copy of a dense model and its units."""
    copy = deepcopy(model).eval()
    return copy, UnitView(Encoder(copy))


@torch.no_grad()
def scale_units(view: UnitView, key: Key, factors: Tensor) -> None:
    """Multiplies the output of each unit by a factor, 0 to remove it, in place."""
    view.last_weight(key).mul_(factors.to(view.last_weight(key)).repeat_interleave(view.width(key)))


def unit_gradients(
    view: UnitView,
    batches: Sequence[Batch],
    keys: Sequence[Key],
    seed: int,
    visit: Callable[[Key, Tensor], None] | None = None,
    temperature: float = 1.0,
) -> Iterator[dict[Key, Tensor]]:
    """Yields, batch by batch, the derivatives of each sample's loss with respect to a factor on each unit's output.

    Args:
        view: The units of the model that runs.
        batches: Padded batches: with labels for the loss, without for draws with the true Fisher information.
        keys: The sub-layers that are measured.
        seed: Of these draws.
        visit: Gets the inputs of the last matrix of each sub-layer, shape (real tokens, units · width).
        temperature: Softens the predictions in the draws.

    Yields:
        Shapes (samples, units).
    """
    model = view.encoder.model
    generator = torch.Generator().manual_seed(seed)
    matrices = {key: view.encoder.linear(key[0], view.encoder.last_role(key[1])) for key in keys}
    for batch in batches:
        gradients: dict[Key, Tensor] = {}
        mask = token_mask(model, batch)

        def receive(
            key: Key, x: Tensor, delta: Tensor, received: dict[Key, Tensor] = gradients, mask: Tensor = mask
        ) -> None:
            received[key] = view.sum_units(((delta @ view.last_weight(key)) * x).sum(1), key)
            if visit is not None:
                visit(key, x[mask])

        with torch.enable_grad(), backward_leaf(model) as leaf, gradient_hooks(dict(matrices), receive):
            backpropagate(summed_loss(model, batch, generator, temperature), leaf)
        yield gradients
