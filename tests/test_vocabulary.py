"""Vocabulary trimming: the same pieces and the same answers about the corpus, from fewer embeddings."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    CamembertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaTokenizer,
    ViTConfig,
    ViTForImageClassification,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

from bertsurgeon import Sparsity, get_plan, prune, trim_vocabulary
from bertsurgeon.checkpoint import load_model, save_model
from bertsurgeon.errors import DataError, ModelError
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.testing import toy_classifier
from cli_helpers import files, run, succeed, write_data, write_model

KNOWN = (
    "The pruned encoder keeps every piece that its corpus needs, and loses embeddings of all others.",
    "Unhappiness is unlikely to be unlearned; relearning, unlearning and learning are alike.",
    "Tokenizers merge characters into longer pieces: tokens, tokenized, tokenization.",
    "Keepers keep, losers lose, and pieces of a corpus stay in place.",
)
"""What the vocabularies are learnt from."""

CORPUS = ("the corpus keeps its pieces", "unlearning is learning, unlike ☃ and ☂☂", "tokens stay", "keep ☃s of all")
"""What is kept: some of it, with characters that no vocabulary knows."""

OTHER = "embeddings, relearning"

SPECIAL = {
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "bpe": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "unigram": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}


def make_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    special = list(SPECIAL[kind])
    if kind == "wordpiece":
        learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        learner.normalizer = normalizers.BertNormalizer()
        learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        learner.train_from_iterator(KNOWN, trainers.WordPieceTrainer(vocab_size=140, special_tokens=special))
        return BertTokenizer(vocab=learner.get_vocab())
    if kind == "bpe":
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=special, initial_alphabet=alphabet)
        learner.train_from_iterator(KNOWN, trainer)
        model = json.loads(learner.to_str())["model"]
        return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    learner.train_from_iterator(KNOWN, trainer)
    return XLMRobertaTokenizer(vocab=[tuple(entry) for entry in json.loads(learner.to_str())["model"]["vocab"]])


def make_config(kind: str, tokenizer: PreTrainedTokenizerBase) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    family = {"wordpiece": BertConfig, "bpe": RobertaConfig, "unigram": XLMRobertaConfig}[kind]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    # more rows than tokens, as models have whose rows were rounded up
    return family(vocab_size=len(tokenizer) + 3, max_position_embeddings=64, initializer_range=0.2, **sizes, **ids)


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[list[list[str]], torch.Tensor]:
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    return [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"]], logits


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_corpus_gets_the_same_pieces_and_the_same_answers(kind: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(make_config(kind, tokenizer))
    rows = model.config.vocab_size
    wanted_pieces, wanted = answers(model, tokenizer, CORPUS)
    assert kind == "bpe" or any(tokenizer.unk_token in pieces for pieces in wanted_pieces)
    smaller, its_tokenizer, report = trim_vocabulary(model, CORPUS, tokenizer)
    save_model(smaller, tmp_path / "trimmed", its_tokenizer)
    loaded, loaded_tokenizer = load_model(tmp_path / "trimmed"), AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    for one, its in ((smaller, its_tokenizer), (loaded, loaded_tokenizer)):
        assert type(its) is type(tokenizer)
        pieces, found = answers(one, its, CORPUS)
        assert pieces == wanted_pieces
        assert torch.equal(found, wanted)
        assert one.config.vocab_size == one.get_input_embeddings().num_embeddings == report.kept == len(its)
        assert one.config.pad_token_id == its.pad_token_id == one.get_input_embeddings().padding_idx
        assert {its.convert_tokens_to_ids(token) for token in SPECIAL[kind]} < set(range(report.kept))
        assert len(its(OTHER)["input_ids"]) > 2  # other texts are still read
    assert report.total == rows == model.config.vocab_size == model.get_input_embeddings().num_embeddings
    assert report.kept < len(tokenizer) < rows
    assert report.parameters[0] - report.parameters[1] == 32 * (rows - report.kept)
    # pairs are wrapped in special tokens that have other numbers now
    pair = [one(CORPUS[0], CORPUS[2]).input_ids for one in (tokenizer, its_tokenizer)]
    assert tokenizer.convert_ids_to_tokens(pair[0]) == its_tokenizer.convert_ids_to_tokens(pair[1])


@pytest.mark.parametrize("kind", SPECIAL)
def test_tied_heads_lose_the_same_tokens(kind: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(make_config(kind, tokenizer))
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    _, wanted = answers(model, tokenizer, CORPUS)
    smaller, its_tokenizer, report = trim_vocabulary(model, CORPUS, tokenizer)
    _, found = answers(smaller, its_tokenizer, CORPUS)
    assert found.shape[-1] == report.kept
    kept = [
        tokenizer.convert_tokens_to_ids(its_tokenizer.convert_ids_to_tokens(number))
        for number in range(len(its_tokenizer))
    ]
    assert torch.allclose(found, wanted[..., kept], atol=1e-6)
    assert smaller.get_output_embeddings().weight is smaller.get_input_embeddings().weight
    save_model(smaller, tmp_path / "trimmed", its_tokenizer)
    loaded = load_model(tmp_path / "trimmed", AutoModelForMaskedLM)
    assert torch.equal(answers(loaded, its_tokenizer, CORPUS)[1], found)


def test_words_that_lead_nowhere_are_not_spelled_by_shorter_pieces() -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "a", "c", "##b", "##bd"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    model = AutoModelForSequenceClassification.from_config(
        BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    corpus = ["abd", "a", "cbd"]  # abd: ab, and then nothing; without ab it would be a ##bd
    assert tokenizer.tokenize("abd") == ["[UNK]"]
    _, smaller, _ = trim_vocabulary(model, corpus, tokenizer)
    assert [smaller.tokenize(text) for text in corpus] == [["[UNK]"], ["a"], ["c", "##bd"]]
    assert set(smaller.get_vocab()) == {*pieces} - {"##b"}


def test_camembert_numbers_its_special_tokens_otherwise() -> None:
    """Some of them do nothing, and the mask comes last."""
    learnt = json.loads(make_tokenizer("unigram").backend_tokenizer.to_str())["model"]["vocab"]
    special = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    vocabulary = [*special, *(tuple(entry) for entry in learnt[5:])]
    tokenizer = CamembertTokenizer(vocab=vocabulary)
    model = AutoModelForSequenceClassification.from_config(make_config("unigram", tokenizer))
    wanted_pieces, wanted = answers(model, tokenizer, CORPUS)
    smaller, its_tokenizer, _ = trim_vocabulary(model, CORPUS, tokenizer)
    pieces, found = answers(smaller, its_tokenizer, CORPUS)
    assert pieces == wanted_pieces
    assert torch.equal(found, wanted)
    assert smaller.config.vocab_size < model.config.vocab_size / 1.2


def test_lists_of_words_are_a_corpus_as_well() -> None:
    model, tokenizer, _ = toy_classifier()
    words = [["a", "warm", "film"], ["dull", "snow"]]
    smaller, its_tokenizer, report = trim_vocabulary(model, words, tokenizer)
    assert report.kept == 5 + 4
    before, after = (
        one(words, is_split_into_words=True, padding=True, return_tensors="pt") for one in (tokenizer, its_tokenizer)
    )
    with torch.no_grad():
        assert torch.equal(model(**before).logits, smaller(**after).logits)


def test_what_cannot_be_trimmed_is_refused() -> None:
    model, tokenizer, _ = toy_classifier()
    with pytest.raises(DataError, match="corpus is empty"):
        trim_vocabulary(model, [], tokenizer)
    with pytest.raises(DataError, match="pass a list of texts"):
        trim_vocabulary(model, "a warm film", tokenizer)
    with pytest.raises(ModelError, match="no vocabulary"):
        trim_vocabulary(
            ViTForImageClassification(
                ViTConfig(
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    image_size=8,
                    patch_size=4,
                )
            ),
            ["a"],
            tokenizer,
        )
    with pytest.raises(ModelError, match="no fast tokenizer"):
        trim_vocabulary(model, ["a"], object())  # type: ignore[arg-type]
    small = AutoModelForSequenceClassification.from_config(
        BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(ModelError, match="do not belong together"):
        trim_vocabulary(small, ["a lovely film"], tokenizer)


def test_pruned_and_sparse_models_keep_what_they_are(tmp_path: Path) -> None:
    model, tokenizer, texts = toy_classifier()
    batches = [tokenizer(texts["text"][start : start + 16], padding=True, return_tensors="pt") for start in (0, 16)]
    for method in ("auto", "pgb", "obert"):
        pruned, _ = prune(model, METHODS[method].config(Sparsity(0.5)), batches)  # type: ignore[arg-type]
        corpus = texts["text"][:4]
        _, wanted = answers(pruned, tokenizer, corpus)
        smaller, its_tokenizer, _ = trim_vocabulary(pruned, corpus, tokenizer)
        save_model(smaller, tmp_path / method, its_tokenizer)
        loaded = load_model(tmp_path / method)
        assert get_plan(loaded) == get_plan(pruned)
        assert torch.equal(answers(loaded, its_tokenizer, corpus)[1], wanted)


def test_commands(tmp_path: Path) -> None:
    write_model(tmp_path / "dense")
    for name, rows in (("train", 12), ("validation", 6)):
        write_data(tmp_path / f"{name}.csv", rows, seed=rows)
    (tmp_path / "corpus.txt").write_text("the film was lovely\na dull day\n")
    result = succeed(
        "trim-vocabulary",
        tmp_path / "dense",
        "-o",
        tmp_path / "small",
        "--text-file",
        tmp_path / "corpus.txt",
        "--json",
    )
    found = json.loads(result.stdout)
    assert (found["kept"], found["texts"]) == (12, 2)
    assert json.loads((tmp_path / "small" / "vocabulary_report.json").read_text())["kept"] == 12
    assert load_model(tmp_path / "small").config.vocab_size == 12
    assert "trim-vocabulary" in run("--help").output
    refused = run("trim-vocabulary", tmp_path / "dense", "-o", tmp_path / "none")
    assert refused.exit_code == 2
    assert "Name the texts" in refused.output
    assert not (tmp_path / "none").exists()
    options = ["--method", "pgb", "--sparsity", "0.5", "--samples", "8", "--trim-vocabulary", "--json"]
    result = succeed("prune", tmp_path / "dense", "-o", tmp_path / "pruned", *files(tmp_path), *options)
    kept = json.loads(result.stdout)["vocabulary"]["kept"]
    pruned = load_model(tmp_path / "pruned")
    assert pruned.config.vocab_size == kept <= 25
    assert get_plan(pruned) is not None
    metrics = json.loads(succeed("evaluate", tmp_path / "pruned", *files(tmp_path), "--json").stdout)["metrics"]
    reported = json.loads(result.stdout)["models"]["pruned"]
    assert metrics == {name: reported[name] for name in metrics}


def test_unknown_algorithms_are_named() -> None:
    from bertsurgeon.vocabulary.pieces import needed_pieces

    with pytest.raises(ModelError, match="A Morse tokenizer"):
        needed_pieces({"model": {"type": "Morse", "vocab": {}}}, set(), ())


def test_merges_of_other_pieces_go() -> None:
    tokenizer = make_tokenizer("bpe")
    model = AutoModelForSequenceClassification.from_config(make_config("bpe", tokenizer))
    _, smaller, _ = trim_vocabulary(model, ["keep"], tokenizer)
    before, after = (json.loads(one.backend_tokenizer.to_str())["model"] for one in (tokenizer, smaller))
    assert 0 < len(after["merges"]) < len(before["merges"]) / 2
    assert set(pre_tokenizers.ByteLevel.alphabet()) < after["vocab"].keys()
    assert smaller.tokenize("keep ☃ unlike") != tokenizer.tokenize("keep ☃ unlike")
    assert smaller.decode(smaller("keep ☃ unlike")["input_ids"], skip_special_tokens=True) == "keep ☃ unlike"
