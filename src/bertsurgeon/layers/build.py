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
from bertsurgeon.plan import SUB_LAYERS, Dense, Dropped, Grouped, ModelPlan, Role, Structure, SubLayerName


def make_linear(structure: Structure, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer that computes what ``structure`` keeps of a dense weight.

    Args:
        structure: What to keep.
        weight: Shape (out, in); entries outside the structure are ignored.
        bias: Shape (out,), or None.

    Raises:
        PlanError: If this version cannot execute the structure.
    """
    if isinstance(structure, Grouped):
        return GroupedLinear.from_dense(structure, weight, bias)
    if isinstance(structure, Dropped):
        return DroppedLinear.from_dense(weight, bias)
    if isinstance(structure, Dense):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None).to(weight.device, weight.dtype)
        layer.weight.data.copy_(weight)
        if bias is not None:
            layer.bias.data.copy_(bias)
        return layer
    raise PlanError(f"This version cannot execute a matrix that is {structure.kind!r}; update bertsurgeon.")


def replace_matrix(
    architecture: Architecture,
    model: PreTrainedModel,
    layer: int,
    role: Role,
    structure: Structure,
    weight: Tensor,
    bias: Tensor | None,
) -> None:
    """Puts a new layer in the place of one matrix."""
    parent, _, name = architecture.matrices[role].rpartition(".")
    module = architecture.layers(model)[layer].get_submodule(parent)
    setattr(module, name, make_linear(structure, weight, bias))


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
                structure = layer_plan.matrices[role].structure
                old = architecture.matrix(model, index, role)
                if not isinstance(structure, Dense):
                    assert isinstance(old, nn.Linear)
                    replace_matrix(architecture, model, index, role, structure, old.weight, old.bias)


def check_plan(model: PreTrainedModel, plan: ModelPlan) -> None:
    """Checks that a plan fits a dense model.

    Raises:
        PlanError: If architecture, number of layers or a matrix's shape differ.
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
    state = dict(model.state_dict())
    for index, role, _ in plan:
        name = architecture.matrix_name(twin, index, role)
        dropped = plan.layers[index].is_dropped("attention" if role in SUB_LAYERS["attention"] else "feed_forward")
        target = twin.get_submodule(name)
        module = None if dropped else model.get_submodule(name)
        if isinstance(module, GroupedLinear | DroppedLinear):
            state[f"{name}.weight"] = module.dense_weight()
        elif module is None:
            for key, value in target.state_dict().items():
                state[f"{name}.{key}"] = torch.zeros_like(value)
    twin.load_state_dict(state)
    return twin
