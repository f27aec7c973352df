"""Puts a plan's layers into a model. Nothing here decides anything."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Architecture, get_architecture
from bertsurgeon.errors import PlanError
from bertsurgeon.layers.dropped import (
    DroppedBertAttention,
    DroppedBertIntermediate,
    DroppedBertOutput,
    DroppedDistilBertAttention,
    DroppedDistilBertFeedForward,
)
from bertsurgeon.layers.grouped import DroppedLinear, GroupedLinear
from bertsurgeon.layers.low_rank import LowRankLinear
from bertsurgeon.plan import (
    SUB_LAYERS,
    Channels,
    Dense,
    Dropped,
    Grouped,
    LowRank,
    ModelPlan,
    Role,
    Structure,
    SubLayerName,
    fold_constants,
    sub_layer_of,
)


def make_linear(structure: Structure, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer that computes what ``structure`` keeps of a weight.

    Args:
        structure: What to keep.
        weight: Shape (out, in); entries outside the structure are ignored.
        bias: Shape (out,), or None.
    """
    match structure:
        case Grouped():
            return GroupedLinear.from_dense(structure, weight, bias)
        case LowRank():
            return LowRankLinear.from_dense(structure.rank, weight, bias)
        case Dropped():
            return DroppedLinear.from_dense(weight, bias)
        case Dense():
            layer = _linear(weight.shape, bias is not None).to(weight.device, weight.dtype)
            layer.weight.data.copy_(weight)
            if bias is not None:
                layer.bias.data.copy_(bias)
            return layer


def empty_linear(structure: Structure, shape: tuple[int, int], bias: bool) -> nn.Module:
    """The layer of :func:`make_linear` for a weight of shape (out, in), on the default device, still without values."""
    outputs, inputs = shape
    match structure:
        case Grouped():
            return GroupedLinear(inputs, outputs, structure, bias)
        case LowRank():
            return LowRankLinear(inputs, outputs, structure.rank, bias)
        case Dropped():
            return DroppedLinear(inputs, outputs, bias)
        case Dense():
            return _linear(shape, bias)


def _linear(shape: tuple[int, ...], bias: bool) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, shape[1], shape[0], bias)
    return layer


def replace_matrix(
    architecture: Architecture,
    model: PreTrainedModel,
    layer: int,
    role: Role,
    replacement: nn.Module,
) -> None:
    """Puts a new layer in the place of one matrix."""
    parent, _, name = architecture.matrices[role].rpartition(".")
    module = architecture.layers(model)[layer].get_submodule(parent)
    setattr(module, name, replacement)


def drop_sub_layer(
    architecture: Architecture,
    model: PreTrainedModel,
    layer: int,
    sub_layer: SubLayerName,
    constant: Tensor | None,
) -> None:
    """Takes a whole sub-layer out; the constant it contributes moves into the preceding LayerNorm's bias.

    In a post-LayerNorm encoder the output of the preceding LayerNorm goes nowhere but through this sub-layer and its
    residual connection, so adding the constant there is exact.

    Args:
        architecture: The model's entry in the table.
        model: Changed in place.
        layer: Index of the encoder layer.
        sub_layer: Which one to drop.
        constant: Shape (hidden,), or None where a checkpoint brings the LayerNorm's bias already.
    """
    module = architecture.layers(model)[layer]
    if constant is not None:
        norm = architecture.preceding_norm(model, layer, sub_layer)
        norm.bias.data.add_(constant.to(norm.bias))
    last = module.get_submodule(architecture.matrices[SUB_LAYERS[sub_layer][-1]])
    assert isinstance(last, nn.Linear)
    mark = DroppedLinear(last.in_features, last.out_features, bias=False).to(last.weight.device, last.weight.dtype)
    norm_module = module.get_submodule(architecture.norms[sub_layer])
    if architecture.wiring == "bert" and sub_layer == "attention":
        module.attention = DroppedBertAttention(norm_module, mark)
    elif architecture.wiring == "bert":
        module.intermediate = DroppedBertIntermediate(DroppedLinear(last.out_features, last.in_features, bias=False))
        module.intermediate.to(last.weight.device, last.weight.dtype)
        module.output = DroppedBertOutput(norm_module, mark)
    elif sub_layer == "attention":
        module.attention = DroppedDistilBertAttention(mark)
    else:
        module.ffn = DroppedDistilBertFeedForward(mark)


def install_plan(model: PreTrainedModel, plan: ModelPlan) -> None:
    """Gives a freshly built dense model the plan's layers, ready for their weights to be loaded.

    Works on models on the meta device. Call :func:`reset_indices` once the weights are there.

    Raises:
        PlanError: If the plan was made for another model.
    """
    architecture = get_architecture(model.config.model_type)
    check_plan(model, plan)
    for index, layer_plan in enumerate(plan.layers):
        for sub_layer, roles in SUB_LAYERS.items():
            if layer_plan.is_dropped(sub_layer):
                drop_sub_layer(architecture, model, index, sub_layer, None)
                continue
            for role in roles:
                matrix = layer_plan.matrices[role]
                old = architecture.matrix(model, index, role)
                assert isinstance(old, nn.Linear)
                if isinstance(matrix.structure, Dense) and matrix.stored_shape == matrix.shape:
                    continue
                new = empty_linear(matrix.structure, matrix.stored_shape, old.bias is not None)
                replace_matrix(architecture, model, index, role, new.to(old.weight.device, old.weight.dtype))


def check_plan(model: PreTrainedModel, plan: ModelPlan) -> None:
    """Checks that a plan fits a dense model.

    Raises:
        PlanError: If architecture, number of layers, a matrix's shape or the width of a head differ, or a layer keeps
            what has no effect.
    """
    architecture = get_architecture(model.config.model_type)
    if plan.architecture != architecture.name:
        raise PlanError(f"The plan is for a {plan.architecture} model, not for a {architecture.name} model.")
    shapes = architecture.shapes(model)
    if len(plan.layers) != len(shapes):
        raise PlanError(f"The plan has {len(plan.layers)} layers, the model {len(shapes)}.")
    for index, role, matrix in plan:
        if matrix.shape != shapes[index][role]:
            raise PlanError(
                f"The plan expects shape {matrix.shape} for {role} of layer {index}, "
                f"the model has {shapes[index][role]}."
            )
    widths: dict[SubLayerName, int] = {"attention": architecture.head_width(model.config), "feed_forward": 1}
    for index, layer in enumerate(plan.layers):
        structures = {role: matrix.structure for role, matrix in layer.matrices.items()}
        if fold_constants(structures) != structures:
            raise PlanError(f"The plan keeps matrices in layer {index} that have no effect; they must be dropped.")
        for sub_layer, units in layer.units.items():
            if units.width != widths[sub_layer]:
                raise PlanError(f"The plan's units of the {sub_layer} are not {widths[sub_layer]} channels wide.")


def reset_indices(model: nn.Module) -> None:
    """Recomputes what grouped layers do not store; to be called after weights were loaded."""
    for module in model.modules():
        if isinstance(module, GroupedLinear):
            module.reset_indices()


def to_dense(model: PreTrainedModel, plan: ModelPlan) -> PreTrainedModel:
    """The zero-filled dense twin of a pruned model: a stock Hugging Face model with the same outputs.

    Args:
        model: A pruned model; left as it is.
        plan: Its plan.
    """
    architecture = get_architecture(model.config.model_type)
    config = deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    twin: PreTrainedModel = type(model)(config)
    twin.to(dtype=model.dtype).to(torch.device(model.device))  # type: ignore[call-arg]  # transformers wraps Module.to
    twin.train(model.training)
    names = [
        (architecture.matrix_name(twin, index, role), plan.layers[index], role)  # of every matrix
        for index, role, _ in plan
    ]
    state = dict(model.state_dict())
    for name, layer, role in names:
        target = twin.get_submodule(name)
        module = None if layer.is_dropped(sub_layer_of(role)) else model.get_submodule(name)
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        for key, value in target.state_dict().items():
            state[f"{name}.{key}"] = torch.zeros_like(value)
        if module is not None:
            _scatter(module, *layer.channels(role), state[f"{name}.weight"], state.get(f"{name}.bias"))
    twin.load_state_dict(state)
    return twin


def _scatter(
    module: nn.Module, rows: Channels | None, columns: Channels | None, weight: Tensor, bias: Tensor | None
) -> None:
    """Writes a stored matrix to its channels in the dense one (``weight`` and ``bias``, zero where nothing is kept)."""
    stored = module.weight if isinstance(module, nn.Linear) else module.dense_weight()  # type: ignore[operator]
    row_index = torch.arange(len(weight)) if rows is None else torch.tensor(rows)
    column_index = torch.arange(weight.shape[1]) if columns is None else torch.tensor(columns)
    weight[row_index.unsqueeze(1), column_index] = stored.detach()
    if bias is not None:
        bias[row_index] = module.bias.detach()  # type: ignore[operator]
