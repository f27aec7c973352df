"""Installs the layers of a plan in a model, and makes pruned models dense again; all decisions are the plan's."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder, fuse_in_place, unfuse, unfuse_in_place
from bertsurgeon.embedder import new_model_like
from bertsurgeon.errors import ModelError, PlanError
from bertsurgeon.layers.dropped import (
    DroppedAttention,
    DroppedBertIntermediate,
    DroppedBertOutput,
    DroppedFeedForward,
    DroppedLinear,
    DroppedNormedAttention,
)
from bertsurgeon.layers.grouped import GroupedLinear
from bertsurgeon.layers.low_rank import LowRankLinear
from bertsurgeon.plan import (
    Channels,
    Dense,
    Dropped,
    Grouped,
    LayerPlan,
    LowRank,
    ModelPlan,
    Structure,
    SubLayerName,
    fold_constants,
    sub_layer_of,
)


def make_linear(structure: Structure, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Makes the layer that computes what a structure keeps of a weight.

    Args:
        structure: What is kept.
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
    """Makes the layer of :func:`make_linear` without values, on the default device.

    Args:
        structure: What is kept.
        shape: Shape of the weight, (out, in).
        bias: Whether the layer has a bias.
    """
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


def drop_sub_layer(encoder: Encoder, layer: int, sub_layer: SubLayerName, constant: Tensor | None) -> None:
    """Removes a whole sub-layer except for the constant that it contributes.

    In a post-norm model the constant is added to the bias of the preceding norm. This is exact, as the output of that
    norm is read by this sub-layer and its residual connection only. In a pre-norm model the constant is the bias of the
    placeholder at the last matrix, and the norm before the sub-layer is removed as well.

    Args:
        encoder: Changed in place.
        layer: Index of the layer.
        sub_layer: The sub-layer to remove.
        constant: Shape (hidden,); None if a checkpoint provides it later.
    """
    architecture, module = encoder.architecture, encoder.layers[layer]
    path = architecture.matrices[encoder.last_role(sub_layer)]
    last = module.get_submodule(path)
    assert isinstance(last, nn.Linear)
    placeholder = DroppedLinear(last.in_features, last.out_features, bias=architecture.pre_norm)
    placeholder.to(last.weight.device, last.weight.dtype)
    if placeholder.bias is not None:
        if constant is not None:
            placeholder.bias.data.copy_(constant)
        module.set_submodule(architecture.norms[sub_layer], nn.Identity())
    elif constant is not None:
        bias = encoder.input_bias(layer, sub_layer)
        bias.data.add_(constant.to(bias))
    parent = architecture.attention if sub_layer == "attention" else architecture.feed_forward
    last_path = path.removeprefix(f"{parent}.")
    replacement: nn.Module
    if sub_layer == "attention" and architecture.norm_inside:
        norm_path = architecture.norms[sub_layer]
        norm = module.get_submodule(norm_path)
        replacement = DroppedNormedAttention(norm_path.removeprefix(f"{parent}."), norm, last_path, placeholder)
    elif sub_layer == "attention":
        replacement = DroppedAttention(last_path, placeholder, layer)
    elif parent:
        replacement = DroppedFeedForward(last_path, placeholder)
    else:
        first = DroppedLinear(last.out_features, last.in_features, bias=False)
        module.intermediate = DroppedBertIntermediate(first.to(last.weight.device, last.weight.dtype))
        module.output = DroppedBertOutput(module.get_submodule(architecture.norms[sub_layer]), placeholder)
        return
    module.set_submodule(parent, replacement)


def give_biases(encoder: Encoder) -> None:
    """Adds a bias of zeros to every matrix without one: compensation stores the mean of what is removed there."""
    for index in range(len(encoder.layers)):
        for role in encoder.roles:
            matrix = encoder.matrix(index, role)
            if isinstance(matrix, nn.Linear) and matrix._parameters["bias"] is None:
                matrix.bias = nn.Parameter(matrix.weight.new_zeros(matrix.out_features))


def install_plan(model: PreTrainedModel, plan: ModelPlan) -> None:
    """Replaces the matrices of a new dense model by the plan's layers, before their weights are loaded.

    Models on the meta device are supported. Call :func:`reset_indices` after the weights are loaded.

    Args:
        model: Changed in place.
        plan: What is kept.

    Raises:
        PlanError: If the plan was made for another model.
    """
    encoder = Encoder(model)
    check_plan(model, plan)
    unfuse_in_place(model)
    give_biases(encoder)
    for index, layer_plan in enumerate(plan.layers):
        for sub_layer, roles in encoder.sub_layers.items():
            if layer_plan.is_dropped(sub_layer):
                drop_sub_layer(encoder, index, sub_layer, None)
                continue
            for role in roles:
                matrix = layer_plan.matrices[role]
                old = encoder.matrix(index, role)
                assert isinstance(old, nn.Linear)
                if isinstance(matrix.structure, Dense) and matrix.stored_shape == matrix.shape:
                    continue
                new = empty_linear(matrix.structure, matrix.stored_shape, bias=True)
                encoder.replace(index, role, new.to(old.weight.device, old.weight.dtype))
        update_head_counts(encoder, index, layer_plan)


def check_plan(model: PreTrainedModel, plan: ModelPlan) -> None:
    """Checks that a plan fits a dense model.

    Args:
        model: The dense model; its weights do not matter.
        plan: The plan to check.

    Raises:
        PlanError: If the architecture, the number of layers, the matrices, a shape or the width of a head differ, or
            the plan keeps matrices that have no effect.
    """
    encoder = Encoder(model)
    architecture = encoder.architecture
    if plan.architecture != architecture.name:
        raise PlanError(
            f"The plan is for a {plan.architecture} model, this is a {architecture.name} model; use a plan for it."
        )
    shapes = encoder.shapes
    if len(plan.layers) != len(shapes):
        raise PlanError(f"The plan has {len(plan.layers)} layers, the model {len(shapes)}; use a plan for this model.")
    for index, layer in enumerate(plan.layers):
        if set(layer.matrices) != set(shapes[index]):
            raise PlanError(f"The plan's layer {index} has other matrices than the model's; the plan is damaged.")
    for index, role, matrix in plan:
        if matrix.shape != shapes[index][role]:
            raise PlanError(
                f"The plan expects shape {matrix.shape} for {role} of layer {index}, the model has "
                f"{shapes[index][role]}; use a plan for this model."
            )
    for index, layer in enumerate(plan.layers):
        structures = {role: matrix.structure for role, matrix in layer.matrices.items()}
        if fold_constants(structures, architecture.positional) != structures:
            raise PlanError(f"The plan keeps matrices of layer {index} that have no effect; they must be dropped.")
        for sub_layer, units in layer.units.items():
            if units.width != encoder.unit_width(sub_layer):
                raise PlanError(
                    f"The plan's units of the {sub_layer} are {units.width} channels wide, the model's "
                    f"{encoder.unit_width(sub_layer)}; use a plan for this model."
                )


def reset_indices(model: nn.Module) -> None:
    """Recomputes the gather indices of grouped layers after weights were loaded: checkpoints do not store them."""
    for module in model.modules():
        if isinstance(module, GroupedLinear):
            module.reset_indices()


def dense_twin(model: PreTrainedModel, plan: ModelPlan) -> PreTrainedModel:
    """Makes the dense equivalent of a pruned model: a stock Hugging Face model with zeros and the same outputs.

    Args:
        model: A pruned model; not changed.
        plan: Its plan.

    Raises:
        ModelError: If the stock model has no parameter for a bias that compensation added to a matrix.
    """
    architecture = Encoder(model).architecture
    config = deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for option in architecture.bias_options:
        setattr(config, option, True)
    stock = new_model_like(model, config)
    stock.to(torch.device(model.device))  # type: ignore[arg-type]  # transformers wraps Module.to
    # buffers that no file stores keep their type, as in from_pretrained
    for tensor in stock.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(model.dtype)
    stock.train(model.training)
    dense = unfuse(stock)
    encoder = Encoder(dense)
    stock_state = dict(dense.state_dict())
    state = dict(model.state_dict())
    for index, role, _ in plan:
        layer, name = plan.layers[index], encoder.matrix_name(index, role)
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        sub_layer = sub_layer_of(role)
        # a dropped sub-layer of a pre-norm model keeps a placeholder, whose bias is the constant it contributes
        keeps_module = not layer.is_dropped(sub_layer) or (
            architecture.pre_norm and role == layer.sub_layers[sub_layer][-1]
        )
        weight = state[f"{name}.weight"] = torch.zeros_like(stock_state[f"{name}.weight"])
        bias = weight.new_zeros(len(weight))
        if keeps_module:
            _scatter(model.get_submodule(name), *layer.channels(role), weight, bias)
        if f"{name}.bias" in stock_state:
            state[f"{name}.bias"] = bias
        elif bias.any():
            raise ModelError(
                f"A stock {architecture.name} model has no parameter for the bias that compensation added to {name}; "
                "use the pruned model itself, or export it."
            )
    for index, layer in enumerate(plan.layers):
        for sub_layer in layer.sub_layers if architecture.pre_norm else ():
            norm = f"{encoder.layer_name(index)}.{architecture.norms[sub_layer]}."
            if layer.is_dropped(sub_layer):  # its norm was removed as well, and its values have no effect
                state |= {name: value for name, value in stock_state.items() if name.startswith(norm)}
    dense.load_state_dict(state)
    if dense is not stock:
        fuse_in_place(dense, stock)
    return dense


def _scatter(module: nn.Module, rows: Channels | None, columns: Channels | None, weight: Tensor, bias: Tensor) -> None:
    """Writes a stored matrix to its channels in a dense one.

    Args:
        module: The layer of the pruned model.
        rows: Output channels of the dense matrix that are stored; None for all.
        columns: Input channels of the dense matrix that are stored; None for all.
        weight: Zeros, shape (out, in); changed in place.
        bias: Zeros, shape (out,); changed in place.
    """
    stored = module.weight if isinstance(module, nn.Linear) else module.dense_weight()  # type: ignore[operator]
    row_index = torch.arange(len(weight)) if rows is None else torch.tensor(rows)
    column_index = torch.arange(weight.shape[1]) if columns is None else torch.tensor(columns)
    weight[row_index.unsqueeze(1), column_index] = stored.detach()
    bias[row_index] = module.bias.detach()  # type: ignore[operator]


def update_head_counts(encoder: Encoder, layer: int, plan: LayerPlan) -> None:
    """Updates what an attention module stores about its heads beside the matrices: counts, and biases per head.

    Most modules derive these numbers from the shapes of their matrices' outputs; for the others the table of
    architectures lists the attributes.

    Args:
        encoder: Changed in place.
        layer: Index of the layer.
        plan: What the layer keeps.
    """
    units = plan.units.get("attention")
    if units is None or plan.is_dropped("attention"):
        return
    architecture, module = encoder.architecture, encoder.layers[layer]
    for path in architecture.head_counts:
        _set_attribute(module, path, units.kept)
    for path in architecture.head_channels:
        _set_attribute(module, path, units.kept * units.width)
    if architecture.head_bias is not None:
        _select_biases(module.get_submodule(architecture.attention), architecture.head_bias, list(units.order))


def _set_attribute(module: nn.Module, path: str, value: int) -> None:
    """Sets the attribute at a dotted path below a module."""
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, value)


def _select_biases(attention: nn.Module, name: str, heads: list[int]) -> None:
    """Makes an attention read the biases of some heads only, from its argument of shape (batch, heads, …)."""

    def select(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get(name) is not None:
            kwargs = {**kwargs, name: kwargs[name][:, heads]}
        return args, kwargs

    attention.register_forward_pre_hook(select, with_kwargs=True)
