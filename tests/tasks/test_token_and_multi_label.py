"""Token classification and multi-label classification: files, labels, alignment with pieces, metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from seqeval.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks import TASK_TYPES, load_user_task, tokenize
from bertsurgeon.tasks.files import read_conll
from cli_helpers import write_model

TOKENS, LISTS = TASK_TYPES["token-classification"], TASK_TYPES["multi-label"]

CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP B-ORG
rejects VBZ I-VP O
German JJ I-NP B-MISC
call NN I-NP I-MISC

Peter NNP I-NP B-PER
. . O O
"""


def test_conll_columns(tmp_path: Path) -> None:
    path = tmp_path / "data.conll"
    path.write_text(CONLL, encoding="utf-8")
    data = load_user_task(path, path)
    assert data.task.labels == ("O", "B-MISC", "I-MISC", "B-ORG", "B-PER")
    assert data.task.metrics == ("f1", "precision", "recall", "accuracy")
    assert data.train.to_list() == [
        {"tokens": ["EU", "rejects", "German", "call"], "tags": [3, 0, 1, 2]},
        {"tokens": ["Peter", "."], "tags": [4, 0]},
    ]
    speech = load_user_task(path, path, label_column="1", task_type=TOKENS)
    assert speech.task.labels == (".", "JJ", "NN", "NNP", "VBZ")
    assert speech.task.metrics == ("accuracy", "macro_f1")


def test_conll_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("# text = a b\r\n1\tNew York\tB-LOC\t_\r\n2\t#\tO\t_\r\n\r\n\r\n1\tx\tO\t_\r\n", encoding="utf-8")
    rows = read_conll(path, 1, 2).to_list()
    assert rows == [{"tokens": ["New York", "#"], "tags": ["B-LOC", "O"]}, {"tokens": ["x"], "tags": ["O"]}]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", {}, "holds no sentences"),
        ("-DOCSTART- O\n\n", {}, "holds no sentences"),
        ("EU\n", {}, "Line 1 .* has 1 columns"),
        ("EU O\nrejects\n", {}, "Line 2 .* has 1 columns"),
        ("EU O\n", {"label_column": "2"}, "none at 0 or 2"),
        ("EU O\nx O\n", {}, "all the same"),
    ],
)
def test_broken_conll(content: str, columns: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.conll"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_user_task(path, path, **columns)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="named by position"):
        load_user_task(path, path, label_column="tag")
    with pytest.raises(DataError, match="does not exist"):
        load_user_task(tmp_path / "none.conll", path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_tokens(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{suffix}"
    frame = pd.DataFrame({"words": [["EU", "rejects"], ["Peter"]], "ner": [["B-ORG", "O"], ["B-PER"]]})
    save(frame, path)
    data = load_user_task(path, path, "words", None, "ner", task_type=TOKENS)
    assert data.train.to_list() == [{"tokens": ["EU", "rejects"], "tags": [1, 0]}, {"tokens": ["Peter"], "tags": [2]}]
    save(pd.DataFrame({"tokens": [["EU", "rejects"]], "tags": [["O"]]}), path)
    with pytest.raises(DataError, match=r"Row 1 of .* 2 tokens and 1 tags"):
        load_user_task(path, path, task_type=TOKENS)
    save(pd.DataFrame({"tokens": ["EU rejects"], "tags": [["O"]]}), path)
    with pytest.raises(DataError, match="must be lists"):
        load_user_task(path, path, task_type=TOKENS)


def save(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """A tokenizer of word pieces that knows no word of several letters but ``film``."""
    folder = write_model(tmp_path_factory.mktemp("pieces") / "model")
    letters = [*"abcdefghijklmnopqrstuvwxyz.,"]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "film",
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def byte_level() -> PreTrainedTokenizerBase:
    """A tokenizer like RoBERTa's: pieces begin with the space before them."""
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    inner = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(["<s>", "</s>", *letters])}, merges=[])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_first_pieces_have_the_labels(pieces: PreTrainedTokenizerBase) -> None:
    data = Dataset.from_dict({"tokens": [["Ab", "film", "", "c.d", "\u200b"]], "tags": [[1, 2, 3, 4, 5]]})
    [row] = tokenize(data, pieces, None, TOKENS)
    assert pieces.convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "a", "##b", "film", "c", ".", "d", "[SEP]"]
    assert row["word_starts"] == [0, 1, 0, 1, 1, 0, 0, 0]
    assert row["labels"] == [-100, 1, -100, 2, 4, -100, -100, -100]
    [short] = tokenize(data, pieces, 4, TOKENS)
    assert short["labels"] == [-100, 1, -100, -100]


def test_pieces_that_begin_with_spaces() -> None:
    tokenizer = byte_level()
    data = Dataset.from_dict({"tokens": [["ab", "é", "c"]], "tags": [[1, 2, 3]]})
    [row] = tokenize(data, tokenizer, 64, TOKENS)
    # the space, like each byte, is a piece of its own here; it belongs to no word
    assert len(row["input_ids"]) == 1 + 2 + 1 + 2 + 1 + 1 + 1
    assert row["labels"] == [-100, 1, -100, -100, 2, -100, -100, 3, -100]


def test_plain_texts_have_words_too(pieces: PreTrainedTokenizerBase) -> None:
    data = Dataset.from_dict({"text": ["Ab film\tc.d"], "label": [3]})  # of another type of task
    [row] = tokenize(data, pieces, None, TOKENS)
    assert row["word_starts"] == [0, 1, 0, 1, 1, 0, 0, 0]
    assert "labels" not in row
    paired = tokenize(Dataset.from_dict({"text": ["ab c"], "text_pair": ["film d"]}), pieces, None, TOKENS)
    assert paired["word_starts"][0] == [0, 1, 0, 1, 0, 1, 1, 0]


def test_entities_are_scored_by_seqeval() -> None:
    labels = ("O", "B-LOC", "I-LOC", "B-PER")
    wanted = [["B-LOC", "I-LOC", "O", "B-PER"], ["O", "B-LOC"]]
    found = [["B-LOC", "O", "O", "B-PER"], ["O", "B-LOC"]]
    rows, codes = [], []
    for right, said in zip(wanted, found, strict=True):
        logits = torch.zeros(2 * len(said), 4)
        ignored = torch.full((len(said),), -100)
        logits[0::2] = torch.eye(4)[[labels.index(tag) for tag in said]]
        codes.append(torch.stack((torch.tensor([labels.index(tag) for tag in right]), ignored), 1).flatten().tolist())
        rows.append({"logits": logits})
    dataset = Dataset.from_dict({"labels": codes})
    scores = TOKENS.score(("f1", "precision", "recall", "accuracy", "macro_f1"), labels, rows, dataset)
    # three entities are there, three are found, two of them right
    assert scores["f1"] == pytest.approx(100 * f1_score(wanted, found)) == pytest.approx(200 / 3)
    assert scores["precision"] == scores["recall"] == pytest.approx(200 / 3)
    assert scores["accuracy"] == pytest.approx(500 / 6)
    with pytest.raises(DataError, match="needs tags"):
        TOKENS.score(("f1",), labels, rows, dataset.rename_column("labels", "other"))


@pytest.mark.filterwarnings("error")
def test_nothing_found_is_no_warning() -> None:
    rows = [{"logits": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}]
    dataset = Dataset.from_dict({"labels": [[0, 1]]})
    assert TOKENS.score(("f1", "precision"), ("O", "B-X"), rows, dataset) == {"f1": 0.0, "precision": 0.0}


# several classes at once


@pytest.mark.parametrize("form", ["lists.jsonl", "lists.parquet", "columns.csv", "columns.jsonl"])
def test_several_labels(form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    if form.startswith("lists"):
        save(pd.DataFrame({"text": ["x", "y", "z"], "genre": [["war", "art"], [], ["art"]]}), path)
        data = load_user_task(path, path, None, None, "genre", task_type=LISTS)
    else:
        save(pd.DataFrame({"text": ["x", "y", "z"], "art": [1, 0, 1], "war": [1, 0, 0], "more": "?"}), path)
        data = load_user_task(path, path, None, None, "art,war", task_type=LISTS)
    assert data.task.labels == ("art", "war")
    assert data.task.metrics == ("micro_f1", "macro_f1", "accuracy")
    assert data.train["label"][:] == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("frame", "column", "message"),
    [
        ({"text": ["x"], "label": ["war"]}, None, "not lists of labels.*--label-column"),
        ({"text": ["x"], "art": [2], "war": [0]}, "art,war", "0 and 1 only, not 2"),
        ({"text": ["x"], "art": [1]}, "art,war", "no column 'war'.*--label-column"),
        ({"text": ["x"], "label": [[]]}, None, "No text has a label"),
    ],
)
def test_broken_label_lists(frame: dict[str, Any], column: str | None, message: str, tmp_path: Path) -> None:
    path = save(pd.DataFrame(frame), tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=message):
        load_user_task(path, path, None, None, column, task_type=LISTS)


def test_lists_need_a_type(tmp_path: Path) -> None:
    path = save(pd.DataFrame({"text": ["x", "y"], "label": [["war"], ["art"]]}), tmp_path / "data.jsonl")
    with pytest.raises(DataError, match="--task-type multi-label"):
        load_user_task(path, path)


def test_the_type_may_be_named(tmp_path: Path) -> None:
    path = save(pd.DataFrame({"text": ["x", "y"], "label": [1, 2]}), tmp_path / "data.csv")
    assert load_user_task(path, path).task.type is TASK_TYPES["classification"]
    data = load_user_task(path, path, task_type=TASK_TYPES["regression"])
    assert data.train["label"][:] == [1.0, 2.0]
    assert data.task.metrics == ("spearman", "pearson")
    save(pd.DataFrame({"text": ["x", "y"], "label": [1.5, 2]}), path)
    assert load_user_task(path, path).task.type is TASK_TYPES["regression"]
    with pytest.raises(DataError, match="--task-type regression"):
        load_user_task(path, path, task_type=TASK_TYPES["classification"])


def test_micro_and_macro_f1() -> None:
    labels = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    logits = torch.tensor([[2.0, -1.0], [0.5, -0.5], [-1.0, 3.0]])
    rows = [{"logits": row} for row in logits]
    dataset = Dataset.from_dict({"labels": labels.tolist()})
    scores = LISTS.score(("micro_f1", "macro_f1", "accuracy"), ("a", "b"), rows, dataset)
    # a: both right; b: one missed, one too many
    assert scores["micro_f1"] == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))
    assert scores["macro_f1"] == pytest.approx(100 * (1 + 0) / 2)
    assert scores["accuracy"] == pytest.approx(100 / 3)
