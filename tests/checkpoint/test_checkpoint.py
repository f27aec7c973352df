import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import architecture_cases
from bertsurgeon import (
    AutoConfig,
    Groups,
    ObertConfig,
    PgbConfig,
    Sparsity,
    get_plan,
    load_model,
    prune,
    save_model,
    to_dense,
    verify,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import FORMAT_VERSION, attach_plan, load_as_saved, load_tokenizer
from bertsurgeon.compensation import apply_plan
from bertsurgeon.errors import BertSurgeonError, CheckpointError, ModelError
from bertsurgeon.layers import GroupedLinear
from bertsurgeon.plan import SUB_LAYERS, Dropped, LayerPlan, MatrixPlan, ModelPlan, dense_plan
from cli_helpers import unseal, write_model

NAMES = ["bert", "distilbert", "roberta"]
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]


@pytest.fixture(params=NAMES)
def pruned(request: pytest.FixtureRequest, tiny_model: Factory, tiny_batches: Batches) -> PreTrainedModel:
    """Grouped, whole and dropped matrices, and a dropped sub-layer."""
    model = tiny_model(request.param)
    for layer, role in ((1, "output"), (2, "attention_output"), (0, "query")):
        Encoder(model).matrix(layer, role).get_parameter("weight").data.mul_(1e-4)
    config = PgbConfig(Sparsity(0.75), importance="magnitude", grouping="random", compensation="none")
    result, report = prune(model, config, tiny_batches)
    assert any(layer.is_dropped(sub_layer) for layer in report.plan.layers for sub_layer in SUB_LAYERS)
    assert any(isinstance(module, GroupedLinear) for module in result.modules())
    return result


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Factory, tiny_batches: Batches) -> Path:
    """The folder of a pruned BERT."""
    config = PgbConfig(Groups(2), importance="magnitude", compensation="none")
    prune(tiny_model("bert"), config, tiny_batches)[0].save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def without_sub_layers(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Nothing is grouped: only two sub-layers are gone."""
    shapes = Encoder(model).shapes
    layers = [dict(layer.matrices) for layer in dense_plan(name, shapes).layers]
    for index, roles in ((1, SUB_LAYERS["attention"]), (2, SUB_LAYERS["feed_forward"])):
        layers[index].update({role: MatrixPlan(shapes[index][role], Dropped()) for role in roles})
    plan = ModelPlan(name, tuple(LayerPlan(matrices) for matrices in layers))
    result = apply_plan(model, plan, "none")
    attach_plan(result, plan)
    return result


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text.strip()
    assert "\n" not in text
    return text


# saving and loading


def test_round_trip(pruned: PreTrainedModel, tmp_path: Path, tiny_batches: Batches, logits_of: LogitsOf) -> None:
    pruned.save_pretrained(tmp_path / "first")
    logits = [logits_of(pruned, batch) for batch in tiny_batches]
    for load in (AutoModelForSequenceClassification.from_pretrained, load_model):
        again = load(tmp_path / "first")
        assert type(again) is type(pruned)
        assert not again.training
        assert get_plan(again) == get_plan(pruned)
        for batch, expected in zip(tiny_batches, logits, strict=True):
            assert torch.equal(logits_of(again, batch), expected)
        again.save_pretrained(tmp_path / load.__name__)
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / load.__name__ / file).read_bytes() == (tmp_path / "first" / file).read_bytes()


def test_what_is_in_the_folder(pruned: PreTrainedModel, tmp_path: Path) -> None:
    pruned.save_pretrained(tmp_path / "model")
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"config.json", "model.safetensors"}
    entry = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    assert entry["quant_method"] == "bertsurgeon"
    assert entry["format_version"] == 1  # nothing in it needs a newer one
    assert ModelPlan.from_dict(entry["plan"]) == get_plan(pruned)


def test_the_file_is_as_small_as_the_plan_says(pruned: PreTrainedModel, tmp_path: Path) -> None:
    pruned.save_pretrained(tmp_path)
    plan = get_plan(pruned)
    assert plan is not None
    names = {f"{Encoder(pruned).matrix_name(index, role)}.weight" for index, role, _ in plan}
    rest = sum(value.numel() for key, value in to_dense(pruned).state_dict().items() if key not in names)
    size = (tmp_path / "model.safetensors").stat().st_size
    with (tmp_path / "model.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert size - header <= 1.05 * 4 * (plan.kept + rest)
    assert size - header >= 4 * plan.kept


@pytest.mark.parametrize("name", NAMES)
def test_dense_models_load_too(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    model = tiny_model(name)
    save_model(model, tmp_path / "dense")
    again = load_model(tmp_path / "dense")
    assert get_plan(again) is None
    assert torch.equal(logits_of(again, tiny_batches[0]), logits_of(model, tiny_batches[0]))


@pytest.mark.parametrize("name", NAMES)
def test_dropped_sub_layers_alone(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    model = without_sub_layers(tiny_model(name), name)
    model.save_pretrained(tmp_path)
    for load in (AutoModelForSequenceClassification.from_pretrained, load_model):
        assert torch.equal(logits_of(load(tmp_path), tiny_batches[0]), logits_of(model, tiny_batches[0]))


CASTS: dict[str, tuple[Callable[[PreTrainedModel], PreTrainedModel], torch.dtype]] = {
    "half": (lambda model: model.half(), torch.float16),
    "bfloat16": (lambda model: model.bfloat16(), torch.bfloat16),
    "to": (lambda model: model.to(torch.float16), torch.float16),
    "float": (lambda model: model.bfloat16().float(), torch.float32),
}
METHODS = {
    "auto": AutoConfig(Sparsity(0.5)),
    "pgb": PgbConfig(Groups(2), importance="magnitude", compensation="none"),
    "obert": ObertConfig(Sparsity(0.5), score="magnitude"),
}


@pytest.fixture(scope="module")
def by_method(tiny_model: Factory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedModel]:
    ids = torch.randint(5, 100, (8, 10), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    return {name: prune(tiny_model("bert"), config, batches)[0] for name, config in METHODS.items()}


@pytest.mark.parametrize("is_loaded", [False, True], ids=["in memory", "reloaded"])
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("method", METHODS)
def test_casts(
    method: str,
    cast: str,
    is_loaded: bool,
    by_method: dict[str, PreTrainedModel],
    tiny_batches: Batches,
    logits_of: LogitsOf,
    tmp_path: Path,
) -> None:
    """Nothing is quantized, so that pruned models are cast, saved and loaded in another type as all others are."""
    model = deepcopy(by_method[method])
    logits = logits_of(model, tiny_batches[0])
    if is_loaded:
        model.save_pretrained(tmp_path / "single")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "single")
    change, dtype = CASTS[cast]
    model = change(model)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    cast_logits = logits_of(model, tiny_batches[0])
    assert cast_logits.dtype == dtype
    torch.testing.assert_close(cast_logits.float(), logits, rtol=0, atol=0.05 * float(logits.abs().max()))
    model.save_pretrained(tmp_path / "cast")
    for load in (AutoModelForSequenceClassification.from_pretrained, load_model):
        again = load(tmp_path / "cast")
        assert again.dtype == dtype
        assert torch.equal(logits_of(again, tiny_batches[0]), cast_logits)


def test_the_trainer_accepts_loaded_models(saved: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert model.hf_quantizer.is_trainable
    assert model.hf_quantizer.is_qat_trainable
    assert all(parameter.requires_grad for parameter in model.parameters())
    arguments = TrainingArguments(str(tmp_path / "run"), report_to=[], use_cpu=True, save_strategy="no")
    assert Trainer(model, arguments).model is model


# without the library


SCRIPT = """
import sys
from transformers import AutoModelForSequenceClassification
assert "bertsurgeon" not in sys.modules
dense, *pruned = sys.argv[1:]
AutoModelForSequenceClassification.from_pretrained(dense)
for folder in pruned:
    try:
        AutoModelForSequenceClassification.from_pretrained(folder)
    except Exception as error:
        print("refused", folder)
    else:
        print("opened", folder)
AutoModelForSequenceClassification.from_pretrained(pruned[-1])
"""


def test_without_the_library_nothing_loads(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    """One process for all; it ends with a model that only lacks sub-layers, and nothing to catch the error."""
    tiny_model("bert").save_pretrained(tmp_path / "dense")
    folders = []
    for name in NAMES:
        folders += [str(tmp_path / f"{name}-grouped"), str(tmp_path / f"{name}-dropped")]
        config = PgbConfig(Groups(2), importance="magnitude", compensation="none")
        prune(tiny_model(name), config, tiny_batches)[0].save_pretrained(folders[-2])
        without_sub_layers(tiny_model(name), name).save_pretrained(folders[-1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "dense"), *folders],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout.splitlines() == [f"refused {folder}" for folder in folders], done.stderr
    assert done.returncode != 0
    assert "mismatch" in done.stderr
    assert (
        done.stderr.count("Unknown quantization type, got bertsurgeon ") >= 1
    )  # all that the format can have it print


def test_a_readme_tells_how_to_load(saved: Path, tiny_model: Factory, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path / "pruned")
    text = (tmp_path / "pruned" / "README.md").read_text()
    assert "pip install bertsurgeon" in text
    assert "BertForSequenceClassification.from_pretrained" in text
    save_model(load_model(saved), tmp_path / "with-card", texts={"README.md": "mine"})
    assert (tmp_path / "with-card" / "README.md").read_text() == "mine"
    save_model(tiny_model("bert"), tmp_path / "dense")
    assert not (tmp_path / "dense" / "README.md").exists()


# damage


def test_newer_formats_ask_for_an_update(saved: Path) -> None:
    edit_config(saved, lambda config: config["quantization_config"].update(format_version=FORMAT_VERSION + 1))
    for load in (AutoModelForSequenceClassification.from_pretrained, load_model):
        with pytest.raises(CheckpointError, match="update") as error:
            load(saved)
        assert str(FORMAT_VERSION + 1) in one_sentence(error)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
@pytest.mark.parametrize("is_pruned", [True, False], ids=["pruned", "dense"])
def test_truncated_weights(is_pruned: bool, length: int, saved: Path, tiny_model: Factory) -> None:
    if not is_pruned:
        saved = saved.parent / "dense"
        tiny_model("bert").save_pretrained(saved)
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as error:
        load_model(saved)
    one_sentence(error)


@pytest.mark.parametrize("is_pruned", [True, False], ids=["pruned", "dense"])
def test_missing_weights(is_pruned: bool, saved: Path, tiny_model: Factory) -> None:
    if not is_pruned:
        saved = saved.parent / "dense"
        tiny_model("bert").save_pretrained(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    one_sentence(error)


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(200), None], ids=["empty", "text", "zeros", "truncated"])
def test_broken_pickles(content: bytes | None, tiny_model: Factory, tmp_path: Path) -> None:
    model, path = tiny_model("bert"), tmp_path / "pytorch_model.bin"
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), path)
    load_model(tmp_path)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged") as error:
        load_model(tmp_path)
    one_sentence(error)


@pytest.mark.parametrize("load", [load_model, load_as_saved])
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"intermediate_size": 64}, r"intermediate\.dense\.bias has shape \(96,\) instead of \(64,\)"),
        ({"num_hidden_layers": 4}, r"bert\.encoder\.layer\.3\.\S+ is missing"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, r"classifier\.bias has shape \(2,\) instead of \(3,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_weights_that_do_not_fit_their_configuration(
    load: Callable[[Path], PreTrainedModel],
    entries: dict[str, Any],
    message: str,
    tiny_model: Factory,
    tmp_path: Path,
) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    edit_config(tmp_path, lambda config: config.update(entries))
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path)
    one_sentence(error)


def test_a_new_head_may_have_other_classes(tiny_model: Factory, tmp_path: Path) -> None:
    model = tiny_model("bert")
    model.save_pretrained(tmp_path)
    model_with_new_head = load_model(tmp_path, num_labels=5, new_head=True)
    assert model_with_new_head.get_parameter("classifier.weight").shape == (5, 48)
    assert all(
        map(torch.equal, model_with_new_head.base_model.state_dict().values(), model.base_model.state_dict().values())
    )
    with pytest.raises(CheckpointError, match=r"classifier\.bias has shape"):
        load_model(tmp_path, num_labels=5)


@pytest.mark.parametrize("entries", [{"num_attention_heads": 5}, {"num_attention_heads": 0}, {"hidden_act": "none"}])
@pytest.mark.parametrize("is_pruned", [True, False], ids=["pruned", "dense"])
def test_configurations_that_make_no_model(
    is_pruned: bool, entries: dict[str, Any], saved: Path, tiny_model: Factory
) -> None:
    if not is_pruned:
        saved = saved.parent / "dense"
        tiny_model("bert").save_pretrained(saved)
    edit_config(unseal(saved), lambda config: config.update(entries))
    with pytest.raises(CheckpointError, match=r"No model can be made of .*config\.json") as error:
        load_model(saved)
    one_sentence(error)


def test_a_type_that_is_a_number(tiny_model: Factory, tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    edit_config(tmp_path, lambda config: config.update(dtype=3))
    with pytest.raises(CheckpointError, match=r"No model can be made of .*config\.json"):
        load_model(tmp_path)


def test_settings_that_only_building_reveals(saved: Path) -> None:
    edit_config(saved, lambda config: config.update(initializer_range=-0.8))
    with pytest.raises(CheckpointError, match=r"No model can be made of .*config\.json"):
        load_model(saved)
    assert "No model can be made of" in verify(saved).faults[0]


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "whole matrix"])
def test_tensors_that_do_not_fit_the_plan(damage: str, saved: Path) -> None:
    path = unseal(saved) / "model.safetensors"
    state = load_file(path)
    name = "bert.encoder.layer.1.attention.self.value.weight"
    if damage == "missing":
        del state[name]
    elif damage == "unexpected":
        state["bert.extra"] = torch.zeros(1)
        name = "bert.extra"
    elif damage == "shape":
        state[name] = state[name].T.contiguous()
    else:
        state[name] = torch.zeros(48, 48)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load_model(saved)
    assert name in one_sentence(error)


def test_weights_that_are_not_finite(saved: Path) -> None:
    path = unseal(saved) / "model.safetensors"
    state = load_file(path)
    state["classifier.weight"][0, 0] = float("inf")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"classifier\.weight"):
        load_model(saved)


WRONG_VALUES = '{"model_type": "bert", "hidden_size": "x"}', '{"model_type": "bert", "dtype": "float3"}'


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"bert"', "null", *WRONG_VALUES])
def test_damaged_configurations(content: str, saved: Path) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        load_model(saved)
    one_sentence(error)


@pytest.mark.parametrize("damage", ["no plan", "unknown structure", "fewer layers", "other shape", "other class"])
def test_damaged_plans(damage: str, saved: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        plan = config["quantization_config"]["plan"]
        if damage == "no plan":
            del config["quantization_config"]["plan"]
        elif damage == "unknown structure":
            plan["layers"][0]["query"]["kind"] = "butterfly"
        elif damage == "fewer layers":
            plan["layers"].pop()
        elif damage == "other shape":
            plan["layers"][0]["query"]["shape"] = [96, 48]
        else:
            config["architectures"] = ["NoSuchModel"]

    edit_config(saved, edit)
    with pytest.raises(BertSurgeonError) as error:
        load_model(saved)
    one_sentence(error)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(ModelError, match="no") as error:
            load_model(folder)
        assert str(folder) in one_sentence(error)


def test_unsupported_architectures(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match=r"t5.*bert, .*distilbert, .*roberta"):
        load_model(tmp_path)


# what else belongs to a model


def test_reports_are_saved_beside_the_model(tiny_model: Factory, tmp_path: Path) -> None:
    save_model(tiny_model("bert"), tmp_path / "out", reports={"report.json": {"seconds": 1.5}})
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {"seconds": 1.5}
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(CheckpointError, match="not empty"):
        save_model(tiny_model("bert"), tmp_path / "out")


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "deberta-v2"])
def test_a_missing_tokenizer_is_not_made_up(name: str, tmp_path: Path) -> None:
    architecture_cases.make_model(AutoModelForSequenceClassification, name).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="There is no tokenizer") as error:
        load_tokenizer(tmp_path)
    one_sentence(error)


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_tokenizer(tmp_path / "model")


@pytest.mark.parametrize("name", ["modernbert", "llama"])
def test_positions_keep_their_precision(name: str, tmp_path: Path) -> None:
    """What no file holds is in single precision, as in models that transformers loads."""
    model = architecture_cases.make_model(AutoModelForSequenceClassification, name).to(torch.bfloat16)
    batches = architecture_cases.make_batches(name)
    pruned, _ = prune(model, AutoConfig(Sparsity(0.3), structures=("removal",)), batches)
    pruned.save_pretrained(tmp_path)
    loaded, stock = load_model(tmp_path), AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for one in (loaded, to_dense(loaded)):
            types = {name: buffer.dtype for name, buffer in one.named_buffers()}
            assert types == {name: buffer.dtype for name, buffer in stock.named_buffers()}
        torch.testing.assert_close(loaded(**batches[0]).logits, stock(**batches[0]).logits, rtol=0, atol=0)


def test_how_a_decoder_generates_is_kept(tmp_path: Path) -> None:
    model = architecture_cases.make_model(AutoModelForCausalLM, "llama")
    model.generation_config.update(eos_token_id=[1, 3], max_new_tokens=7)
    pruned, _ = prune(model, AutoConfig(Sparsity(0.3)), architecture_cases.make_batches("llama"))
    pruned.save_pretrained(tmp_path)
    generation = load_model(tmp_path).generation_config
    assert generation is not None
    assert (generation.eos_token_id, generation.max_new_tokens) == ([1, 3], 7)
