"""Puts a plan's layers into a model. Nothing here decides anything."""

from copy import deepcopy

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
    DroppedNormedAttention,
)
from bertsurgeon.layers.grouped import DroppedLinear, GroupedLinear
from bertsurgeon.layers.heads import update_head_counts
from bertsurgeon.layers.low_rank import LowRankLinear
from bertsurgeon.plan import (
    Channels,
    Dense,
    Dropped,
    Grouped,
    LowRank,
    ModelPlan,
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


def drop_sub_layer(
    encoder: Encoder,
    layer: int,
    sub_layer: SubLayerName,
    constant: Tensor | None,
) -> None:
    """Takes a whole sub-layer out, but for the constant it contributes.

    In a post-norm model the constant moves into the bias of the preceding norm, whose output goes nowhere but through
    this sub-layer and its residual connection, so adding it there is exact. In a pre-norm model it stays where the last
    matrix was, as its bias, and the norm before the sub-layer goes, too.

    Args:
        encoder: Changed in place.
        layer: Index of the layer.
        sub_layer: Which one to drop.
        constant: Shape (hidden,), or None where a checkpoint brings it.
    """
    architecture, module = encoder.architecture, encoder.layers[layer]
    path = architecture.matrices[encoder.last_role(sub_layer)]
    last = module.get_submodule(path)
    assert isinstance(last, nn.Linear)
    mark = DroppedLinear(last.in_features, last.out_features, bias=architecture.pre_norm)
    mark.to(last.weight.device, last.weight.dtype)
    if mark.bias is not None:
        if constant is not None:
            mark.bias.data.copy_(constant)
        module.set_submodule(architecture.norms[sub_layer], nn.Identity())
    elif constant is not None:
        bias = encoder.input_bias(layer, sub_layer)
        bias.data.add_(constant.to(bias))
    place = architecture.attention if sub_layer == "attention" else architecture.feed_forward
    inside = path.removeprefix(f"{place}.")
    replacement: nn.Module
    if sub_layer == "attention" and architecture.norm_inside:
        norm = architecture.norms[sub_layer]
        norm_module = module.get_submodule(norm)
        replacement = DroppedNormedAttention(norm.removeprefix(f"{place}."), norm_module, inside, mark)
    elif sub_layer == "attention":
        replacement = DroppedAttention(inside, mark, layer)
    elif place:
        replacement = DroppedFeedForward(inside, mark)
    else:
        first = DroppedLinear(last.out_features, last.in_features, bias=False)
        module.intermediate = DroppedBertIntermediate(first.to(last.weight.device, last.weight.dtype))
        module.output = DroppedBertOutput(module.get_submodule(architecture.norms[sub_layer]), mark)
        return
    module.set_submodule(place, replacement)


def give_biases(encoder: Encoder) -> None:
    """Gives every matrix without a bias one of zeros: compensation keeps the mean of what is removed there."""
    for index in range(len(encoder.layers)):
        for role in encoder.roles:
            matrix = encoder.matrix(index, role)
            if isinstance(matrix, nn.Linear) and matrix._parameters["bias"] is None:
                matrix.bias = nn.Parameter(matrix.weight.new_zeros(matrix.out_features))


def install_plan(model: PreTrainedModel, plan: ModelPlan) -> None:
    """Gives a freshly built dense model the plan's layers, ready for their weights to be loaded.

    Works on models on the meta device. Call :func:`reset_indices` once the weights are there.

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

    Raises:
        PlanError: If architecture, number of layers, the matrices, a matrix's shape or the width of a head differ, or a
            layer keeps what has no effect.
    """
    encoder = Encoder(model)
    architecture = encoder.architecture
    if plan.architecture != architecture.name:
        raise PlanError(f"The plan is for a {plan.architecture} model, not for a {architecture.name} model.")
    shapes = encoder.shapes
    if len(plan.layers) != len(shapes):
        raise PlanError(f"The plan has {len(plan.layers)} layers, the model {len(shapes)}.")
    for index, layer in enumerate(plan.layers):
        if set(layer.matrices) != set(shapes[index]):
            raise PlanError(f"The plan's layer {index} has other matrices than the model's; the plan is damaged.")
    for index, role, matrix in plan:
        if matrix.shape != shapes[index][role]:
            raise PlanError(
                f"The plan expects shape {matrix.shape} for {role} of layer {index}, "
                f"the model has {shapes[index][role]}."
            )
    for index, layer in enumerate(plan.layers):
        structures = {role: matrix.structure for role, matrix in layer.matrices.items()}
        if fold_constants(structures, architecture.positional) != structures:
            raise PlanError(f"The plan keeps matrices in layer {index} that have no effect; they must be dropped.")
        for sub_layer, units in layer.units.items():
            if units.width != encoder.unit_width(sub_layer):
                raise PlanError(
                    f"The plan's units of the {sub_layer} are not {encoder.unit_width(sub_layer)} channels wide."
                )


def reset_indices(model: nn.Module) -> None:
    """Recomputes what grouped layers do not store; to be called after weights were loaded."""
    for module in model.modules():
        if isinstance(module, GroupedLinear):
            module.reset_indices()


def dense_twin(model: PreTrainedModel, plan: ModelPlan) -> PreTrainedModel:
    """The zero-filled dense twin of a pruned model: a stock Hugging Face model with the same outputs.

    Args:
        model: A pruned model; left as it is.
        plan: Its plan.

    Raises:
        ModelError: If the stock model has no place for a bias that compensation gave to a matrix without one.
    """
    architecture = Encoder(model).architecture
    config = deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for option in architecture.bias_options:
        setattr(config, option, True)
    stock = new_model_like(model, config)
    stock.to(torch.device(model.device))  # type: ignore[arg-type]  # transformers wraps Module.to
    for tensor in stock.state_dict(keep_vars=True).values():  # what no file holds keeps its type, as in from_pretrained
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(model.dtype)
    stock.train(model.training)
    twin = unfuse(stock)
    encoder = Encoder(twin)
    own = dict(twin.state_dict())
    state = dict(model.state_dict())
    for index, role, _ in plan:
        layer, name = plan.layers[index], encoder.matrix_name(index, role)
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        module = None if layer.is_dropped(sub_layer_of(role)) else model.get_submodule(name)
        if module is None and architecture.pre_norm and role == layer.sub_layers[sub_layer_of(role)][-1]:
            module = model.get_submodule(name)  # the mark, whose bias is what the sub-layer contributes
        weight = state[f"{name}.weight"] = torch.zeros_like(own[f"{name}.weight"])
        bias = weight.new_zeros(len(weight))
        if module is not None:
            _scatter(module, *layer.channels(role), weight, bias)
        if f"{name}.bias" in own:
            state[f"{name}.bias"] = bias
        elif bias.any():
            raise ModelError(
                f"A stock {architecture.name} model has no place for the bias that compensation gave to {name}; use "
                "the pruned model itself, or export it."
            )
    for index, layer in enumerate(plan.layers):
        for sub_layer in layer.sub_layers if architecture.pre_norm else ():
            norm = f"{encoder.layer_name(index)}.{architecture.norms[sub_layer]}."
            if layer.is_dropped(sub_layer):  # its norm is gone, too; nothing reads what it says
                state |= {name: value for name, value in own.items() if name.startswith(norm)}
    twin.load_state_dict(state)
    if twin is not stock:
        fuse_in_place(twin, stock)
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
