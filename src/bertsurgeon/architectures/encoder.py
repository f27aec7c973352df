"""One view of a model's encoder: its layers and matrices by index and role, and how they are wired."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures.table import Architecture, get_architecture, linear_shape
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import Role, SubLayerName


class Encoder:
    """The encoder (or decoder) inside a model, whatever its architecture.

    The view holds no state of its own: it reads and changes the model. It works for dense and pruned models; a dense
    model that fuses matrices is taken apart first (:func:`bertsurgeon.architectures.unfuse`).

    Args:
        model: A model of a supported architecture, with any head or none.

    Raises:
        ModelError: If the architecture is not supported.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.architecture: Architecture = get_architecture(model.config.model_type)

    @property
    def base(self) -> nn.Module:
        """The encoder (or decoder) below any task head."""
        base: nn.Module = self.model.base_model
        return base

    @property
    def layers(self) -> list[nn.Module]:
        """The layers, from the input to the output."""
        return list(self.base.get_submodule(self.architecture.encoder).children())

    def set_layers(self, layers: Sequence[nn.Module]) -> None:
        """Replaces the list of layers; the configuration is left as it is."""
        self.base.set_submodule(self.architecture.encoder, nn.ModuleList(layers))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The matrices of a layer."""
        return self.architecture.roles

    @property
    def sub_layers(self) -> dict[SubLayerName, tuple[Role, ...]]:
        """The matrices of each sub-layer."""
        return self.architecture.sub_layers

    def last_role(self, sub_layer: SubLayerName) -> Role:
        """The matrix that writes a sub-layer's output to the residual stream."""
        return self.sub_layers[sub_layer][-1]

    def matrix(self, layer: int, role: Role) -> nn.Module:
        """The module of one matrix.

        Raises:
            AttributeError: If it was dropped together with its sub-layer.
        """
        return self.layers[layer].get_submodule(self.architecture.matrices[role])

    def find_matrix(self, layer: int, role: Role) -> nn.Module | None:
        """The module of one matrix; None if it was dropped together with its sub-layer."""
        try:
            return self.matrix(layer, role)
        except AttributeError:
            return None

    def weight(self, layer: int, role: Role) -> Tensor:
        """The weight of one matrix of a dense model, detached, shape (out, in)."""
        return self.linear(layer, role).weight.detach()

    def linear(self, layer: int, role: Role) -> nn.Linear:
        """The module of one matrix of a dense model.

        Raises:
            ModelError: If the matrix is no linear layer: pruned, fused, quantized or adapted.
        """
        module = self.matrix(layer, role)
        if not isinstance(module, nn.Linear):
            raise ModelError(
                f"A {type(module).__name__} stands where a linear layer was expected; start from the dense model."
            )
        return module

    def replace(self, layer: int, role: Role, module: nn.Module) -> None:
        """Puts a module in the place of one matrix."""
        parent, _, name = self.architecture.matrices[role].rpartition(".")
        setattr(self.layers[layer].get_submodule(parent), name, module)

    def layer_name(self, layer: int) -> str:
        """The qualified name of a layer inside the model."""
        prefix = "" if self.base is self.model else f"{self.model.base_model_prefix}."
        return f"{prefix}{self.architecture.encoder}.{layer}"

    def matrix_name(self, layer: int, role: Role) -> str:
        """The qualified name of a matrix inside the model."""
        return f"{self.layer_name(layer)}.{self.architecture.matrices[role]}"

    def input_bias(self, layer: int, sub_layer: SubLayerName) -> nn.Parameter:
        """The bias added last to a sub-layer's input and residual, in a post-norm model; shape (hidden,)."""
        if sub_layer == "feed_forward":
            module = self.layers[layer].get_submodule(self.architecture.norms["attention"])
        elif layer > 0:
            module = self.layers[layer - 1].get_submodule(self.architecture.norms["feed_forward"])
        else:
            names = {name for name, _ in self.base.named_modules()}
            module = self.base.get_submodule(next(path for path in self.architecture.input_norms if path in names))
        return module.get_parameter("bias")

    @property
    def head_width(self) -> int:
        """Channels per attention head."""
        return self.architecture.head_width(self.model.config)

    def unit_width(self, sub_layer: SubLayerName) -> int:
        """Channels that are removed together: those of the query heads that share a key and a value, or a neuron."""
        return self.architecture.unit_width(self.model.config) if sub_layer == "attention" else 1

    @property
    def shapes(self) -> list[dict[Role, tuple[int, int]]]:
        """The (output, input) channels of every matrix of a *dense* model, layer by layer; fused ones included.

        Raises:
            ModelError: If a matrix is no linear layer.
        """
        return [{role: self._shape(layer, role) for role in self.roles} for layer in self.layers]

    def _shape(self, layer: nn.Module, role: Role) -> tuple[int, int]:
        path = self.architecture.matrices[role]
        fused_path, fused_roles = next(
            ((parent, roles) for parent, roles in self.architecture.fused.items() if path == f"{parent}.{role}"),
            (path, ()),
        )
        if fused_roles and any(True for _ in layer.get_submodule(fused_path).children()):  # taken apart already
            return linear_shape(layer.get_submodule(path))
        outputs, inputs = linear_shape(layer.get_submodule(fused_path))
        return outputs // max(1, len(fused_roles)), inputs
