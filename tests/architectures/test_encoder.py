"""The view of a model's encoder: names, shapes and replacement, for fused and pre-norm models as well."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from architecture_cases import CONFIGS, make_model
from bertsurgeon.architectures import ARCHITECTURES, Encoder, unfuse
from bertsurgeon.errors import ModelError
from bertsurgeon.layers import DroppedLinear, drop_sub_layer
from bertsurgeon.plan import Role

HIDDEN = 32
FUSED = [name for name, architecture in ARCHITECTURES.items() if architecture.fused]
POST_NORM = [name for name, architecture in ARCHITECTURES.items() if not architecture.pre_norm]


def make(name: str) -> PreTrainedModel:
    family: Any = AutoModelForSequenceClassification
    if name == "vit":
        family = AutoModelForImageClassification
    elif ARCHITECTURES[name].decoder:
        family = AutoModelForCausalLM
    return make_model(family, name)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_matrix_is_a_parameter_of_the_model_by_its_name(name: str) -> None:
    model = unfuse(make(name))
    encoder = Encoder(model)
    assert encoder.architecture is ARCHITECTURES[name]
    assert len(encoder.layers) == model.config.num_hidden_layers == 2
    matrices = set()
    for index, layer in enumerate(encoder.layers):
        assert model.get_submodule(encoder.layer_name(index)) is layer
        for role in encoder.roles:
            matrix = encoder.matrix(index, role)
            assert isinstance(matrix, nn.Linear)
            assert matrix is encoder.linear(index, role) is encoder.find_matrix(index, role)
            assert matrix is model.get_submodule(encoder.matrix_name(index, role))
            assert encoder.matrix_name(index, role).startswith(encoder.layer_name(index))
            assert torch.equal(encoder.weight(index, role), matrix.weight)
            assert not encoder.weight(index, role).requires_grad
            matrices.add(matrix)
    assert len(matrices) == 2 * len(encoder.roles)


def test_names_with_and_without_a_head() -> None:
    model = make_model(AutoModelForSequenceClassification, "bert")
    encoder, base = Encoder(model), Encoder(model.base_model)
    assert encoder.base is base.base is model.bert
    assert encoder.matrix_name(1, "query") == "bert.encoder.layer.1.attention.self.query"
    assert base.matrix_name(1, "query") == "encoder.layer.1.attention.self.query"
    assert Encoder(make_model(AutoModel, "bert")).layer_name(0) == "encoder.layer.0"


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_weights(name: str) -> None:
    """The shapes of a fused model, where a role has no module, are those of the unfused one."""
    model = make(name)
    shapes = Encoder(model).shapes
    unfused = Encoder(unfuse(model))
    assert shapes == unfused.shapes
    for index, layer in enumerate(shapes):
        assert tuple(layer) == unfused.roles
        assert layer == {role: tuple(unfused.weight(index, role).shape) for role in layer}
    assert shapes[0]["attention_output"][0] == HIDDEN
    assert shapes[0]["output"] == (HIDDEN, shapes[0]["intermediate"][0])
    assert shapes[0]["query"][0] % Encoder(model).head_width == 0


@pytest.mark.parametrize("name", FUSED)
def test_fused_matrices_have_no_module_until_they_are_split(name: str) -> None:
    encoder = Encoder(make(name))
    assert encoder.find_matrix(0, "query") is None
    with pytest.raises(AttributeError):
        encoder.matrix(0, "query")


def test_units_of_grouped_query_attention() -> None:
    encoder = Encoder(make("llama"))
    config: Any = encoder.model.config
    shared = config.num_attention_heads // config.num_key_value_heads
    assert encoder.unit_width("attention") == shared * encoder.head_width
    assert encoder.unit_width("feed_forward") == 1
    assert encoder.last_role("attention") == "attention_output"
    assert encoder.last_role("feed_forward") == "output"
    assert encoder.sub_layers["feed_forward"] == ("intermediate", "gate", "output")


@pytest.mark.parametrize("role", ["query", "attention_output", "intermediate", "output"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert", "gpt2"])
def test_replacing_one_matrix(name: str, role: Role) -> None:
    encoder = Encoder(unfuse(make(name)))
    others = {key: encoder.matrix(*key) for key in ((0, role), (1, "value"), (1, "output")) if key != (1, role)}
    replacement = DroppedLinear(3, 5)
    encoder.replace(1, role, replacement)
    assert encoder.matrix(1, role) is replacement
    assert all(encoder.matrix(*key) is module for key, module in others.items())
    with pytest.raises(ModelError, match="DroppedLinear where a linear layer is expected"):
        encoder.linear(1, role)
    with pytest.raises(ModelError, match="DroppedLinear"):
        _ = encoder.shapes


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama"])
def test_matrices_of_a_dropped_sub_layer(name: str) -> None:
    encoder = Encoder(unfuse(make(name)))
    drop_sub_layer(encoder, 0, "attention", torch.zeros(HIDDEN))
    assert encoder.find_matrix(0, "value") is None
    assert isinstance(encoder.find_matrix(0, "attention_output"), DroppedLinear)
    assert isinstance(encoder.find_matrix(1, "value"), nn.Linear)


def test_setting_layers() -> None:
    model = make("bert")
    encoder = Encoder(model)
    first, second = encoder.layers
    encoder.set_layers([second])
    assert encoder.layers == [second]
    assert list(model.bert.encoder.layer) == [second]  # type: ignore[union-attr]
    assert model.config.num_hidden_layers == 2
    encoder.set_layers([first, second])
    assert encoder.layers == [first, second]


@pytest.mark.parametrize("name", POST_NORM)
def test_input_biases_are_added_last_to_the_input_of_a_sub_layer(name: str) -> None:
    """Raising the bias by one raises both the input of the sub-layer's first matrix and its residual by one."""
    model = unfuse(make(name))
    encoder = Encoder(model)
    batch = {"input_ids": torch.arange(5, 13).unsqueeze(0), "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    for layer, sub_layer in ((0, "attention"), (0, "feed_forward"), (1, "attention"), (1, "feed_forward")):
        role = encoder.sub_layers[sub_layer][0]  # type: ignore[index]
        inputs: list[torch.Tensor] = []
        handle = encoder.matrix(layer, role).register_forward_pre_hook(
            lambda _, arguments, inputs=inputs: inputs.append(arguments[0].detach())  # type: ignore[misc]
        )
        bias = encoder.input_bias(layer, sub_layer)  # type: ignore[arg-type]
        assert bias.shape == (HIDDEN,)
        with torch.no_grad():
            model(**batch)
            calls = len(inputs)
            bias.add_(1)
            model(**batch)
            bias.sub_(1)
        handle.remove()
        torch.testing.assert_close(inputs[calls], inputs[0] + 1)


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_input_biases_of_a_pre_norm_model_do_not_take_constants(name: str) -> None:
    """The residual bypasses the norms of a pre-norm model, so that a constant stays where the last matrix was."""
    encoder = Encoder(unfuse(make(name)))
    before = {layer: encoder.input_bias(layer, "feed_forward").clone() for layer in (0, 1)}
    constant = torch.arange(float(HIDDEN))
    drop_sub_layer(encoder, 1, "attention", constant)
    assert torch.equal(encoder.matrix(1, "attention_output").get_parameter("bias"), constant)
    assert torch.equal(encoder.input_bias(0, "feed_forward"), before[0])
    with pytest.raises(AttributeError):
        encoder.input_bias(1, "feed_forward")


def test_unsupported_models() -> None:
    model = make("bert")
    model.config.model_type = "t5"
    with pytest.raises(ModelError, match="'t5' are not supported; use one of bert"):
        Encoder(model)
