"""Loading of pruned models: every tensor must fit the plan, and be as it was saved."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from bertsurgeon.architectures import unfuse_in_place
from bertsurgeon.checkpoint.bounds import (
    WithoutWeights,
    check_layers,
    check_plan_size,
    is_float,
    stored_shapes,
    stored_types,
)
from bertsurgeon.checkpoint.checks import FAULTS, check_finite, check_headers, check_prefix, unusable_model
from bertsurgeon.checkpoint.hf_quantizer import (
    METHOD,
    SPARSE_METHOD,
    BertSurgeonConfig,
    SparseConfig,
    attach_plan,
    attach_sparse,
)
from bertsurgeon.checkpoint.integrity import check_digests
from bertsurgeon.checkpoint.model_config import WEIGHTS, saved_class
from bertsurgeon.checkpoint.packed import hook_packed, install_packed, restore_model
from bertsurgeon.checkpoint.settings import reset_outputs
from bertsurgeon.errors import CheckpointError, PlanError
from bertsurgeon.layers import install_plan, reset_indices

PrunedConfig = BertSurgeonConfig | SparseConfig


def pruned_entry(name: str | Path, config: PretrainedConfig) -> PrunedConfig | None:
    """Returns the entry about pruning in a configuration; None for models that this library did not prune.

    Raises:
        CheckpointError: If it is damaged, or asks for more than the weights of a local model have.
    """
    entry = getattr(config, "quantization_config", None)
    if not isinstance(entry, dict) or entry.get("quant_method") not in (METHOD, SPARSE_METHOD):
        return None
    if Path(name).is_dir():
        _check_weights_exist(Path(name))
        check_plan_size(Path(name), entry)
    return BertSurgeonConfig(**entry) if entry["quant_method"] == METHOD else SparseConfig(**entry)


def _check_weights_exist(folder: Path) -> None:
    """Checks that a pruned model has weights with a header that can be read.

    Raises:
        CheckpointError: If it has not.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"There is no {WEIGHTS} in {folder}; copy the model again, or download it if it is on the hub."
        )
    check_headers(folder)


def load_pruned(folder: Path, config: PretrainedConfig, entry: PrunedConfig) -> PreTrainedModel:
    """Loads a pruned model: builds its class without weights, applies its plan, and demands that every tensor fits.

    Args:
        folder: Folder of its files.
        config: Its configuration, from which the entry about the pruning is removed.
        entry: That entry.

    Raises:
        CheckpointError: If the weights are damaged, or do not fit.
        ModelError: If they are not finite.
    """
    _check_weights_exist(folder)
    if entry.digests is not None:
        check_digests(folder, [folder / WEIGHTS], entry.digests)
    model_class = saved_class(folder, config)
    model, tied, buffers = build_pruned(model_class, folder, config, entry)
    state = load_file(folder / WEIGHTS)
    model.load_state_dict(state, strict=not tied, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name in buffers:
            module_name, _, buffer_name = name.rpartition(".")
            model.get_submodule(module_name).register_buffer(buffer_name, buffers[name], persistent=False)
    model.tie_weights()
    _finish(model, entry)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    check_finite(model)
    model.eval()
    return model


def build_pruned(
    model_class: type[Any], folder: Path, config: PretrainedConfig, entry: PrunedConfig
) -> tuple[PreTrainedModel, set[str], dict[str, torch.Tensor]]:
    """Builds a pruned model without memory for its weights, and compares its shapes with those of the file.

    Returns:
        The model, the names of tensors that are tied to others and stored only once, and the dense model's buffers.

    Raises:
        CheckpointError: If plan, configuration and file do not fit each other.
    """
    check_layers(folder, config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    reset_outputs(config, folder)
    with torch.device("meta"):
        model = _build(model_class, config, folder)
        tied = set(model.all_tied_weights_keys)  # stored once, under the name of what they are tied to
        try:
            _install(model, entry)
        except PlanError as error:
            raise CheckpointError(f"{folder / 'config.json'} does not fit its model: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}
    stored = {name: shape for name, shape in stored_shapes(folder / WEIGHTS).items() if name not in tied}
    if expected != stored:
        check_prefix(folder, expected.keys() - stored.keys(), sorted(stored.keys() - expected.keys()))
        name = next(n for n in sorted({*expected, *stored}) if expected.get(n) != stored.get(n))
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit its config.json: {name} has shape {stored.get(name)}, "
            f"{expected.get(name)} was expected (None: absent); copy the model again."
        )
    types = stored_types(folder / WEIGHTS)
    for name, tensor in model.state_dict().items():
        if name in types and is_float(types[name]) != tensor.is_floating_point():
            raise CheckpointError(
                f"{folder / WEIGHTS} does not fit its config.json: {name} is stored as {types[name]}; copy the model "
                "again."
            )
    with WithoutWeights():
        buffers = dict(_build(model_class, config, folder).named_buffers())  # files do not hold all of them
    return model, tied, buffers


def _build(model_class: type[Any], config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    try:
        model: PreTrainedModel = model_class(config)
    except FAULTS as error:
        raise unusable_model(folder, error) from error
    return model


def _install(model: PreTrainedModel, entry: PrunedConfig) -> None:
    if isinstance(entry, BertSurgeonConfig):
        install_plan(model, entry.plan)
    else:
        unfuse_in_place(model)
    if entry.packing is not None:
        install_packed(model, entry.packing)


def _finish(model: PreTrainedModel, entry: PrunedConfig) -> None:
    if entry.packing is not None:
        restore_model(model)
    if isinstance(entry, SparseConfig):
        attach_sparse(model, entry.packing.block)
        return
    reset_indices(model)
    attach_plan(model, entry.plan, entry.packing)
    if entry.packing is not None:
        hook_packed(model)
