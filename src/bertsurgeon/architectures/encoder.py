"""One view of a model's encoder: access to its layers and matrices by index and role."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures.table import Architecture, get_architecture, linear_shape
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import Role, SubLayerName


class Encoder:
    """The encoder (or decoder) inside a model, whatever its architecture.

    The view stores nothing itself: it reads and changes the model. It works for dense and pruned models. A dense model
    with fused matrices must be unfused first (:func:`bertsurgeon.architectures.unfuse`), except for :attr:`shapes`.

    Args:
        model: A model of a supported architecture, with any head or none.

    Attributes:
        model: The model.
        architecture: Its entry in the table of architectures.

    Raises:
        ModelError: If the architecture is not supported.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.architecture: Architecture = get_architecture(model.config.model_type)

    @property
    def base(self) -> nn.Module:
        """The base model, without any task head."""
        base: nn.Module = self.model.base_model
        return base

    @property
    def layers(self) -> list[nn.Module]:
        """The layers, from the input to the output."""
        return list(self.base.get_submodule(self.architecture.encoder).children())

    def set_layers(self, layers: Sequence[nn.Module]) -> None:
        """Replaces the list of layers; the configuration does not change."""
        self.base.set_submodule(self.architecture.encoder, nn.ModuleList(layers))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of a layer's matrices."""
        return self.architecture.roles

    @property
    def sub_layers(self) -> dict[SubLayerName, tuple[Role, ...]]:
        """The roles of each sub-layer."""
        return self.architecture.sub_layers

    def last_role(self, sub_layer: SubLayerName) -> Role:
        """Returns the role of the matrix that writes a sub-layer's output to the residual stream."""
        return self.sub_layers[sub_layer][-1]

    def matrix(self, layer: int, role: Role) -> nn.Module:
        """Returns the module of one matrix.

        Raises:
            AttributeError: If it was dropped together with its sub-layer.
        """
        return self.layers[layer].get_submodule(self.architecture.matrices[role])

    def find_matrix(self, layer: int, role: Role) -> nn.Module | None:
        """Returns the module of one matrix; None if it was dropped together with its sub-layer."""
        try:
            return self.matrix(layer, role)
        except AttributeError:
            return None

    def weight(self, layer: int, role: Role) -> Tensor:
        """Returns the weight of one matrix of a dense model, detached, shape (out, in)."""
        return self.linear(layer, role).weight.detach()

    def linear(self, layer: int, role: Role) -> nn.Linear:
        """Returns the module of one matrix of a dense model.

        Raises:
            ModelError: If the matrix is not a linear layer: pruned, fused, quantized or adapted.
        """
        module = self.matrix(layer, role)
        if not isinstance(module, nn.Linear):
            raise ModelError(
                f"The model contains a {type(module).__name__} where a linear layer is expected; start from the dense "
                "model, without quantization and adapters."
            )
        return module

    def replace(self, layer: int, role: Role, module: nn.Module) -> None:
        """Replaces the module of one matrix."""
        parent, _, name = self.architecture.matrices[role].rpartition(".")
        setattr(self.layers[layer].get_submodule(parent), name, module)

    def layer_name(self, layer: int) -> str:
        """Returns the qualified name of a layer inside the model."""
        prefix = "" if self.base is self.model else f"{self.model.base_model_prefix}."
        return f"{prefix}{self.architecture.encoder}.{layer}"

    def matrix_name(self, layer: int, role: Role) -> str:
        """Returns the qualified name of a matrix inside the model."""
        return f"{self.layer_name(layer)}.{self.architecture.matrices[role]}"

    def input_bias(self, layer: int, sub_layer: SubLayerName) -> nn.Parameter:
        """Returns the bias that is added last to the input of a sub-layer in a post-norm model, shape (hidden,).

        It belongs to the preceding norm, whose output is both the sub-layer's input and its residual.
        """
        if sub_layer == "feed_forward":
            module = self.layers[layer].get_submodule(self.architecture.norms["attention"])
        elif layer > 0:
            module = self.layers[layer - 1].get_submodule(self.architecture.norms["feed_forward"])
        else:
            module = self._input_norm()
        return module.get_parameter("bias")

    def _input_norm(self) -> nn.Module:
        """Returns the module that adds a bias to the first layer's input."""
        names = {name for name, _ in self.base.named_modules()}
        return self.base.get_submodule(next(path for path in self.architecture.input_norms if path in names))

    @property
    def head_width(self) -> int:
        """The number of channels per attention head."""
        return self.architecture.head_width(self.model.config)

    def unit_width(self, sub_layer: SubLayerName) -> int:
        """Returns the channels of one unit: of the query heads that share a key and a value, or 1 for a neuron."""
        return self.architecture.unit_width(self.model.config) if sub_layer == "attention" else 1

    @property
    def shapes(self) -> list[dict[Role, tuple[int, int]]]:
        """The (output, input) channels of every matrix of a *dense* model, fused or not, by role, layer by layer.

        Raises:
            ModelError: If a matrix is not a linear layer.
        """
        return [{role: self._shape(layer, role) for role in self.roles} for layer in self.layers]

    def _shape(self, layer: nn.Module, role: Role) -> tuple[int, int]:
        """Returns the (output, input) channels of one matrix, as part of a fused one or alone."""
        path = self.architecture.matrices[role]
        fused_path, fused_roles = next(
            ((parent, roles) for parent, roles in self.architecture.fused.items() if path == f"{parent}.{role}"),
            (path, ()),
        )
        if fused_roles and any(True for _ in layer.get_submodule(fused_path).children()):  # unfused already
            return linear_shape(layer.get_submodule(path))
        outputs, inputs = linear_shape(layer.get_submodule(fused_path))
        return outputs // max(1, len(fused_roles)), inputs
