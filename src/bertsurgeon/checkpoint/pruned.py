"""Loading a pruned model: its class is built without weights, its plan applied, and every tensor must fit."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from bertsurgeon.architectures import unfuse_in_place
from bertsurgeon.checkpoint.checks import FAULTS, check_finite, check_header, unusable
from bertsurgeon.checkpoint.hf_quantizer import BertSurgeonConfig, attach_plan
from bertsurgeon.checkpoint.packed import hook_packed, install_packed, restore_model
from bertsurgeon.checkpoint.reading import own_class
from bertsurgeon.checkpoint.sparse import SparseConfig, attach_sparse
from bertsurgeon.errors import CheckpointError, PlanError
from bertsurgeon.layers import install_plan, reset_indices

WEIGHTS = "model.safetensors"


def load_pruned(
    folder: Path, config: PretrainedConfig, quantization: BertSurgeonConfig | SparseConfig
) -> PreTrainedModel:
    """Loads a pruned model.

    Args:
        folder: With its weights.
        config: The model's own; its entry about the pruning is taken out.
        quantization: That entry.

    Raises:
        CheckpointError: If the weights are damaged, or do not fit.
        ModelError: If they are not finite.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"There is no {WEIGHTS} in {folder}; copy the model again, or download it if it is on the hub."
        )
    check_header(folder)
    state = load_file(folder / WEIGHTS)
    architecture_class = own_class(folder, config)
    del config.quantization_config
    with torch.device("meta"):
        skeleton = _make(architecture_class, config, folder)
        tied = set(skeleton.all_tied_weights_keys)  # written once, under the name of what they are tied to
        try:
            _install(skeleton, quantization)
        except PlanError as error:
            raise CheckpointError(f"{folder / 'config.json'} does not fit its model: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items() if name not in tied}
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied}
    if expected != found:
        name = next(n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit its config.json: {name} has shape {found.get(name)}, "
            f"{expected.get(name)} was expected (None: absent)."
        )
    buffers = dict(architecture_class(config).named_buffers())  # of which no file holds all; its weights go at once
    model: PreTrainedModel = skeleton
    model.load_state_dict(state, strict=not tied, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name in buffers:
            owner, _, own_name = name.rpartition(".")
            model.get_submodule(owner).register_buffer(own_name, buffers[name], persistent=False)
    model.tie_weights()
    _finish(model, quantization)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    check_finite(model)
    model.eval()
    return model


def _make(architecture_class: type[Any], config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    try:
        model: PreTrainedModel = architecture_class(config)
    except FAULTS as error:
        raise unusable(folder, error) from error
    return model


def _install(model: PreTrainedModel, quantization: BertSurgeonConfig | SparseConfig) -> None:
    if isinstance(quantization, BertSurgeonConfig):
        install_plan(model, quantization.plan)
    else:
        unfuse_in_place(model)
    if quantization.packing is not None:
        install_packed(model, quantization.packing)


def _finish(model: PreTrainedModel, quantization: BertSurgeonConfig | SparseConfig) -> None:
    if quantization.packing is not None:
        restore_model(model)
    if isinstance(quantization, SparseConfig):
        attach_sparse(model, quantization.packing.block)
        return
    reset_indices(model)
    attach_plan(model, quantization.plan, quantization.packing)
    if quantization.packing is not None:
        hook_packed(model)
