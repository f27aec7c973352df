"""Dense checkpoints that transformers loads but this library cannot work with, or whose weights it would not use."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from bertsurgeon import save_model
from bertsurgeon.checkpoint import load_as_saved, load_embedder, load_model, load_tokenizer
from bertsurgeon.checkpoint.bounds import WithoutWeights
from bertsurgeon.errors import CheckpointError, ModelError, PlanError
from bertsurgeon.plan import check_channels
from cli_helpers import write_model


def edit(file: Path, **entries: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return write_model(tmp_path / "dense")


@pytest.mark.parametrize("load", [load_model, load_as_saved])
def test_entries_that_change_the_outputs_are_reset(
    dense: Path, tmp_path: Path, load: Callable[[Path], torch.nn.Module]
) -> None:
    edit(dense / "config.json", output_attentions=True, output_hidden_states=True, return_dict=False)
    model = load(dense)
    save_model(model, str(tmp_path / "saved"))  # type: ignore[arg-type]
    config = load_model(tmp_path / "saved").config
    assert (config.output_attentions, config.output_hidden_states, config.return_dict) == (False, False, True)
    assert model(input_ids=torch.tensor([[2, 5, 3]])).keys() == {"logits"}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.net."])
def test_prefixes_of_wrapped_models(dense: Path, prefix: str) -> None:
    edit_weights(dense, lambda weights: {prefix + name: tensor for name, tensor in weights.items()})
    with pytest.raises(CheckpointError, match=f"prefix '{prefix}'"):
        load_model(dense)


def test_compiled_parts(dense: Path) -> None:
    edit_weights(dense, lambda ts: {name.replace("encoder.", "encoder._orig_mod."): t for name, t in ts.items()})
    with pytest.raises(CheckpointError, match=r"'_orig_mod\.', as those of a model with compiled parts"):
        load_model(dense)


@pytest.mark.parametrize("name", ["attention.self.distance_embedding.weight", "output.dense.lora_A.default.weight"])
def test_weights_without_which_outputs_differ(dense: Path, name: str) -> None:
    edit_weights(dense, lambda weights: {**weights, f"bert.encoder.layer.1.{name}": torch.ones(2, 2)})
    with pytest.raises(ModelError, match=name):
        load_model(dense)


def test_weights_without_a_place(dense: Path, notes: list[str]) -> None:
    """Those of other heads, and the pooler, are no surprise; those of the encoder and of its own head are."""
    others = {"cls.predictions.bias": torch.ones(2), "bert.pooler.extra": torch.ones(2)}
    edit_weights(dense, lambda weights: {**weights, **others})
    load_model(dense)
    assert [note for note in notes if "weights of other heads, which are left out: cls." in note]
    for name in ("bert.encoder.gate", "bert.encoder.layer.2.output.dense.bias", "classifier.out_proj.weight"):
        edit_weights(dense, lambda weights, name=name: {**weights, name: torch.ones(2)})
        for load in (load_model, load_as_saved):
            with pytest.raises(ModelError, match=rf"no place for: {name}"):
                load(dense)
        edit_weights(dense, lambda weights, name=name: {key: weights[key] for key in weights if key != name})


@pytest.mark.parametrize("head", ["BertForMultipleChoice", "BertForNextSentencePrediction"])
def test_heads_that_are_not_supported(dense: Path, head: str) -> None:
    edit(dense / "config.json", architectures=[head])
    with pytest.raises(ModelError, match=f"saved as a {head}"):
        load_model(dense)


@pytest.mark.parametrize(
    "entry", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "hqq"}, {"load_in_8bit": True}]
)
def test_models_that_are_quantized_already(dense: Path, entry: dict[str, object]) -> None:
    edit(dense / "config.json", quantization_config=entry)
    with pytest.raises(ModelError, match=r"quantized already \(by .*start from the dense model"):
        load_model(dense)


def test_a_tokenizer_without_a_padding_token_gets_the_models(dense: Path) -> None:
    edit(dense / "tokenizer_config.json", pad_token=None)
    assert load_tokenizer(dense).pad_token == "[PAD]"
    edit(dense / "config.json", pad_token_id=None)
    edit(dense / "tokenizer_config.json", sep_token="[SEP]", eos_token=None)
    assert load_tokenizer(dense).pad_token == "[SEP]"


@pytest.mark.parametrize("pad", [None, "<pad>"])
def test_a_decoder_is_padded_with_the_token_that_ends_texts(tmp_path: Path, pad: str | None) -> None:
    """Its classifier finds the last token of a text by the same id that the tokenizer pads with."""
    vocabulary = {"<unk>": 0, "<end>": 1, "<pad>": 2, "film": 3}
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": len(vocabulary)}
    GPT2ForSequenceClassification(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).save_pretrained(tmp_path)
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    named = {} if pad is None else {"pad_token": pad}
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", **named).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == (pad or "<end>")
    model = load_model(tmp_path)
    assert model.config.pad_token_id == vocabulary[pad or "<end>"]
    assert model(input_ids=torch.tensor([[3, 3], [3, 1]])).logits.shape == (2, 2)


@pytest.mark.parametrize("types", [1, 2])
def test_a_tokenizer_returns_the_token_types_that_the_model_has(tmp_path: Path, types: int) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "dense", type_vocab_size=types))
    assert ("token_type_ids" in tokenizer("the film", "the plot")) == (types == 2)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").model_input_names == tokenizer.model_input_names


def test_a_tokenizer_that_needs_a_package(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("You need to install fugashi to use MecabTokenizer.\nMore.")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    (dense / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"package that is not installed \(You need to install fugashi"):
        load_tokenizer(dense)
    (dense / "spm.model").touch()
    monkeypatch.setattr("bertsurgeon.checkpoint.tokenizer.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"spm\.model needs a package.*sentencepiece"):
        load_tokenizer(dense)


@pytest.mark.parametrize("found", ["5.4.0", "6.0.0"])
def test_sentence_transformers_below_6_is_refused(found: str, dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 6 it imported the modules of any local folder."""
    monkeypatch.setattr("bertsurgeon.sentence_folders.version", lambda _: found)
    if found.startswith("6"):
        assert load_embedder(dense).max_seq_length > 0
        return
    with pytest.raises(ModelError, match=r"sentence-transformers 5\.4\.0 runs code .* pip install"):
        load_embedder(dense)


def test_no_weight_is_allocated_for_the_buffers_of_a_pruned_model() -> None:
    with WithoutWeights():
        linear, embedding = torch.nn.Linear(3, 4), torch.nn.Embedding(3, 4)
        positions = torch.arange(4).expand(1, -1)
    assert linear.weight.is_meta
    assert embedding.weight.is_meta
    assert positions.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("most", [4, 3])
def test_channels_are_counted_before_they_take_memory(most: int) -> None:
    data = {"rows": ["0-1", "7"], "kind": "grouped", "other": ["x", {"columns": "5"}]}
    if most == 4:
        check_channels(data, most)
        return
    with pytest.raises(PlanError, match="names more than 3 channels"):
        check_channels(data, most)
