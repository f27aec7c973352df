"""Retrieval without a model: collections as they come, exact search, and metrics with known values."""

import gzip
from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from bertsurgeon import progress
from bertsurgeon.compression import inputs
from bertsurgeon.compression.inputs import count_texts, set_aside
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.tasks import get_task
from bertsurgeon.tasks.contributions import agreement_contributions, contributions
from bertsurgeon.tasks.retrieval import (
    METRICS,
    Collection,
    Judgement,
    TopDocuments,
    collection_files,
    measure_queries,
    rank_by_words,
    read_collection,
    reranking_rows,
    reranking_task,
    retrieval_rows,
    retrieval_task,
)
from bertsurgeon.tasks.retrieval.measures import ranking_overlaps
from bertsurgeon.tasks.retrieval.ranking import rank_scores, search_blocks, similarity
from retrieval_cases import DOCUMENTS, QUERIES, write_beir

pytrec_eval = pytest.importorskip("pytrec_eval")
pytest.importorskip("bm25s")


def measured(ranking: Sequence[str], grades: dict[str, int]) -> dict[str, float]:
    values = measure_queries({"q": list(ranking)}, {"q": grades}, list(METRICS))
    return {name: float(value[0]) for name, value in values.items()}


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(progress, "note_once", messages.append)
    return messages


# metrics


def test_graded_judgements() -> None:
    # gains are the grades, divided by the logarithm of the place; x is not judged
    gain = 2 / log2(2) + 3 / log2(4) + 1 / log2(5)
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    result = measured(["d2", "x", "d1", "d3"], {"d1": 3, "d2": 2, "d3": 1, "d4": 0})
    assert result == pytest.approx({"ndcg_at_10": gain / ideal, "recall_at_100": 1, "mrr_at_10": 1})


def test_negative_grades_gain_nothing_and_are_not_relevant() -> None:
    result = measured(["d1", "d2"], {"d1": -2, "d2": 1})
    assert result == pytest.approx({"ndcg_at_10": 1 / log2(3), "recall_at_100": 1, "mrr_at_10": 0.5})


@pytest.mark.parametrize("grades", [{"d1": 0}, {"d1": -1}, {"d9": 1}])
def test_a_query_whose_relevant_documents_are_not_found_or_do_not_exist_counts_0(grades: dict[str, int]) -> None:
    assert measured(["d1", "d2"], grades) == {"ndcg_at_10": 0, "recall_at_100": 0, "mrr_at_10": 0}


@pytest.mark.parametrize(("place", "expected"), [(10, (1 / log2(11), 1, 0.1)), (11, (0, 1, 0)), (101, (0, 0, 0))])
def test_metrics_end_at_their_depths(place: int, expected: tuple[float, float, float]) -> None:
    ranking = [f"x{number}" for number in range(1, place)] + ["d1"]
    assert tuple(measured(ranking, {"d1": 1}).values()) == pytest.approx(expected)


def test_queries_without_a_ranking_count_0_and_keep_their_places() -> None:
    judgements = {name: {"a": 1} for name in ("q1", "q2", "q3")}
    values = measure_queries({"q3": ["a"], "q2": []}, judgements, ["mrr_at_10"])
    assert values["mrr_at_10"].tolist() == [0, 0, 1]
    assert measure_queries({}, judgements, ["mrr_at_10"])["mrr_at_10"].tolist() == [0, 0, 0]


def test_equal_scores_are_ordered_as_trec_eval_does() -> None:
    ids, scores = ["d1", "d10", "d2", "d5"], [1.0, 3.0, 3.0, 3.0]
    for relevant in ids:
        library = pytrec_eval.RelevanceEvaluator({"q": {relevant: 1}}, {"recip_rank"})
        expected = library.evaluate({"q": dict(zip(ids, scores, strict=True))})["q"]["recip_rank"]
        assert measured(rank_scores(ids, scores), {relevant: 1})["mrr_at_10"] == pytest.approx(expected)


def test_overlaps_count_the_order() -> None:
    assert ranking_overlaps([["a", "b"], ["a", "b"], []], [["a", "b"], ["b", "a"], []]).tolist() == [1.0, 0.5, 1.0]
    assert ranking_overlaps([["a", "b"]], [["c", "d"]]).tolist() == [0.0]


# search


@pytest.mark.parametrize("block", [1, 7, 200])
@pytest.mark.parametrize("rows", [1, 1_000_000])
def test_blocks_find_what_a_full_sort_finds(block: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsurgeon.tasks.retrieval.ranking.MAX_SCORES", rows)
    generator = torch.Generator().manual_seed(0)
    # few distinct numbers: many scores are equal, also across blocks and at the last place
    queries, documents = (torch.randint(0, 3, (count, 4), generator=generator).float() for count in (5, 200))
    ids = [f"d{number}" for number in range(200)]
    top = TopDocuments(queries, ids, "dot", {1: 17}, depth=10)
    for start in range(0, 200, block):
        top.add(start, documents[start : start + block])
    for number, ranking in enumerate(top.rankings()):
        scores = dict(zip(ids, (documents @ queries[number]).tolist(), strict=True))
        if number == 1:
            scores.pop("d17")
        by_id = sorted(scores, reverse=True)
        assert ranking == sorted(by_id, key=lambda name: -scores[name])[:10]


def test_every_block_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsurgeon.tasks.retrieval.ranking.BLOCK", 2)
    vectors, blocks = torch.tensor([[5.0], [1.0], [4.0], [2.0], [3.0]]), []

    def embed(start: int, end: int) -> torch.Tensor:
        blocks.append(vectors[start:end])
        return blocks[-1]

    queries = {"q1": torch.ones(1), "q2": -torch.ones(1)}
    assert search_blocks(queries, list("abcde"), embed, "dot", {"q2": "b"}) == {
        "q1": ["a", "c", "e", "d", "b"],
        "q2": ["d", "e", "c", "a"],
    }
    assert [len(block) for block in blocks] == [2, 2, 1]


def test_similarities() -> None:
    queries, documents = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0], [3.0, 0.0]])
    expected = {"cosine": [1.0, 0.6], "dot": [50.0, 9.0], "euclidean": [-5.0, -4.0], "manhattan": [-7.0, -4.0]}
    for name, values in expected.items():
        torch.testing.assert_close(similarity(name, queries, documents), torch.tensor([values]))
    with pytest.raises(OptionError, match="no similarity 'jaccard'; choose one of cosine"):
        similarity("jaccard", queries, documents)


def test_numbers_that_are_not_finite_are_refused() -> None:
    broken = torch.tensor([[float("nan"), 0.0]])
    with pytest.raises(ModelError, match="embedding of a query is not finite"):
        TopDocuments(broken, ["a"])
    with pytest.raises(ModelError, match="embedding of a document is not finite"):
        TopDocuments(torch.ones(1, 2), ["a"]).add(0, broken)
    with pytest.raises(ModelError, match="score of a document is not a finite number"):
        rank_scores(["a", "b"], [1.0, float("inf")])


def test_words_find_documents_that_share_them() -> None:
    collection = Collection("toy", DOCUMENTS, {**QUERIES, "q4": "unheard", "q5": "the"}, {})
    rankings = rank_by_words(collection, 2)
    assert [rankings[query][:1] for query in rankings] == [["a"], ["b"], ["c"], [], []]
    assert rank_by_words(Collection("blank", {"a": ""}, {"q1": "film"}, {}), 2) == {"q1": []}


# reading


def test_the_layout_of_beir(tmp_path: Path, notes: list[str]) -> None:
    documents = [
        {"_id": 1, "title": "Warm", "text": "film"},
        '{"_id": "b", "text": "day"}',
        "",
        '{"_id": "b", "text": "day"}',
    ]
    folder = write_beir(tmp_path / "toy", documents, judgements="\ufeffq1\t1\t2\r\nq1\t1\t2\r\n")
    collection = read_collection(folder)
    assert collection == Collection("toy (test)", {"1": "Warm film", "b": "day"}, {"q1": "warm film"}, {"q1": {"1": 2}})
    assert "Rows of corpus.jsonl that are repeated and count once: 1." in notes
    assert "Queries of toy (test) without judgements are left out: 2 (q2, q3)." in notes
    assert "Read toy (test): 2 documents, 1 judged queries, 1 relevant pairs of a query and a document." in notes


def test_what_is_left_out_or_counts_differently_is_reported(tmp_path: Path, notes: list[str]) -> None:
    judgements = "q1\ta\t-1\nq2\tb\t1\nq2\tzz\t1\nq9\ta\t1\nq3\tc\t0\n"
    documents = [{"_id": name, "text": text} for name, text in {**DOCUMENTS, "blank": " "}.items()]
    collection = read_collection(write_beir(tmp_path / "toy", documents, judgements=judgements))
    assert collection.judgements == {"q1": {"a": -1}, "q2": {"b": 1}, "q3": {"c": 0}}
    text = "\n".join(notes)
    assert "name queries that it does not hold; they are left out: 1 (q9)." in text
    assert "name documents that it does not hold; they are left out: 1 (zz)." in text
    assert "have no relevant document and count 0, whatever is found: 2 (q1, q3)." in text
    assert "have no text, but can be found: 1 (blank)." in text
    assert "with a negative grade, which count as not relevant: 1." in text


def test_the_split_is_chosen(tmp_path: Path) -> None:
    write_beir(tmp_path, judgements="q1\ta\t1\n", split="dev")
    assert set(read_collection(tmp_path).queries) == {"q1"}
    write_beir(tmp_path, judgements="q2\tb\t1\n", split="train")
    with pytest.raises(DataError, match="holds dev, train, and no test; name one of them with --split"):
        read_collection(tmp_path)
    assert set(read_collection(tmp_path, "train").queries) == {"q2"}
    with pytest.raises(DataError, match="no judgements 'test'; choose one of dev, train"):
        read_collection(tmp_path, "test")


def test_compressed_files(tmp_path: Path) -> None:
    write_beir(tmp_path)
    write_beir(tmp_path, split="dev")
    assert [path.name for path in collection_files(tmp_path)] == ["corpus.jsonl", "queries.jsonl", "test.tsv"]
    for file in (tmp_path / "corpus.jsonl", tmp_path / "qrels" / "test.tsv"):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert len(read_collection(tmp_path).documents) == 4


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"documents": ["{"]}, "Line 1 of .*corpus.jsonl is no JSON object"),
        ({"documents": ["[" * 100_000]}, "Line 1 of .*corpus.jsonl is no JSON object .more than 12 lists and objects"),
        ({"queries": ['{"_id": ' + "9" * 5000 + "}"]}, "Line 1 of .*queries.jsonl is no JSON object .a number has too"),
        ({"documents": [{"_id": " ", "text": "x"}]}, "Line 1 .* has no _id"),
        ({"documents": [{"_id": "a\0b", "text": "x"}]}, r"id 'a\\x00b' in .* holds a control character; remove it"),
        ({"queries": [{"_id": "q\t1", "text": "x"}]}, "holds a control character; remove it"),
        ({"queries": [{"_id": "q\ud8001", "text": "x"}]}, "holds a control character; remove it"),
        ({"judgements": "q1\ta\t1\nq1\ta\x1b[2J\t1\n"}, "holds a control character; remove it"),
        ({"documents": ["[]"]}, "Line 1 of .*corpus.jsonl has no _id"),
        ({"documents": [{"_id": True, "text": "x"}]}, "Line 1 .* has no _id"),
        ({"documents": [{"_id": "a"}]}, "Line 1 of .* has no text"),
        ({"documents": [{"_id": "a", "text": "x"}, {"_id": "a", "text": "y"}]}, "two texts with the id 'a'.* line 2"),
        ({"documents": []}, "holds no documents"),
        ({"queries": [{"_id": "q1", "text": " "}]}, "All queries of .* that have judgements are blank"),
        ({"judgements": "q1\ta\n"}, "Line 1 of .*test.tsv has 2 columns, not 3"),
        ({"judgements": "q1\ta\t1\nq1\tb\thigh\n"}, "Line 2 of .* has the grade 'high', which is no integer from"),
        ({"judgements": "q1\ta\t2.0\nq2\tb\t1\n"}, "Line 1 of .*test.tsv has the grade '2.0', which is no integer"),
        ({"judgements": "q1\ta\t\nq2\tb\t1\n"}, "Line 1 of .*test.tsv has the grade '', which is no integer"),
        ({"judgements": "q1\ta\tnan\n"}, "Line 1 of .* has the grade 'nan', which is no integer"),
        ({"judgements": "q1\ta\t1_0\n"}, "Line 1 of .* has the grade '1_0', which is no integer"),
        ({"judgements": "q1\ta\t1\nq1\tb\t1_0\n"}, "Line 2 of .* has the grade '1_0', which is no integer"),
        ({"judgements": "q1\ta\t1001\n"}, "the grade '1001', which is no integer from -1000 to 1000; correct it"),
        ({"judgements": "q1\ta\t-2147483647\n"}, "the grade '-2147483647', which is no integer from -1000 to 1000"),
        ({"judgements": f"q1\ta\t{'9' * 5000}\n"}, "the grade '9{39}, which is no integer from -1000"),
        ({"judgements": "query\tdocument\tscore\nquery\tdocument\tscore\n"}, "Line 2 of .* the grade 'score'"),
        ({"judgements": "q1\ta\t1\nq1\ta\t2\n"}, "document 'a' two grades for query 'q1', 1 and 2"),
        ({"judgements": "q7\ta\t1\n"}, "No judgement of .* names both a query and a document"),
    ],
)
def test_broken_collections_are_refused(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_collection(write_beir(tmp_path, **files))


def test_spaces_around_ids_do_not_count(tmp_path: Path) -> None:
    documents = [{"_id": " a ", "text": "film"}, {"_id": "b\u00a0c d", "text": "day"}]
    folder = write_beir(tmp_path, documents, [{"_id": "q1\u2003", "text": "x"}], "q1 \t a\t1\nq1\tb\u00a0c d\t1\n")
    collection = read_collection(folder)
    assert list(collection.documents) == ["a", "b\u00a0c d"]
    assert collection.judgements == {"q1": {"a": 1, "b\u00a0c d": 1}}


def test_ids_are_not_empty() -> None:
    with pytest.raises(DataError, match="toy holds an empty id"):
        Collection.from_parts("toy", {"": "text"}, QUERIES, [Judgement("q1", "", 1)])


def test_blank_lines_may_precede_the_header(tmp_path: Path) -> None:
    judgements = "\n \nquery-id\tcorpus-id\tscore\nq1\ta\t+1000\n"
    assert read_collection(write_beir(tmp_path, judgements=judgements)).judgements == {"q1": {"a": 1000}}


@pytest.mark.parametrize("grade", [1001, -99_999_999_999, 1.0, "1"])
def test_grades_that_trec_eval_does_not_take_are_refused(grade: Any) -> None:
    with pytest.raises(DataError, match=r"document 'a' the grade .* for query 'q1'; use integers from -1000 to 1000"):
        Collection.from_parts("toy", DOCUMENTS, QUERIES, [Judgement("q1", "a", grade)])


def test_missing_files_and_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_collection(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no retrieval collection; expected corpus.jsonl"):
        read_collection(tmp_path)
    write_beir(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "\xe9"}\n')
    with pytest.raises(DataError, match=r"corpus.jsonl cannot be read as UTF-8 text: line 2 holds the byte 0xe9"):
        read_collection(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes('{"_id": "a"}'.encode("utf-16"))
    with pytest.raises(DataError, match="it is UTF-16; save it as UTF-8"):
        read_collection(tmp_path)
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no queries.jsonl beside corpus.jsonl"):
        read_collection(tmp_path)


def write_cranfield(folder: Path, judgements: str = "1 2 1\n2 1 4\n2 2 -1\n") -> Path:
    (folder / "cran.all.1400").write_text(
        ".I 1\n.T\nthe title .\n.A\nsomeone\n.W\nthe title .\ntext\n.I 2\n.T\nother\n.W\nwords\n", encoding="utf-8"
    )
    (folder / "cran.qry").write_text(".I 001\n.W\nfirst\nquery .\n.I 007\n.W\nsecond\n", encoding="utf-8")
    (folder / "cranqrel").write_text(judgements, encoding="utf-8")
    return folder


def test_the_files_of_cranfield(tmp_path: Path) -> None:
    # judgements name queries by their place; code 1 is the best answer; titles that begin the text are not repeated
    assert read_collection(write_cranfield(tmp_path)) == Collection(
        "cranfield",
        {"1": "the title . text", "2": "other words"},
        {"1": "first query .", "2": "second"},
        {"1": {"2": 4}, "2": {"1": 1, "2": 0}},
    )
    with pytest.raises(OptionError, match="--split names judgements of BEIR's layout"):
        read_collection(tmp_path, "test")


@pytest.mark.parametrize("line", ["1 2", "1 2 7", "1 2 one"])
def test_broken_judgements_of_cranfield(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Line 2 of .*cranqrel must hold a query, a document and a code"):
        read_collection(write_cranfield(tmp_path, f"1 2 1\n{line}\n"))


def test_broken_smart_files(tmp_path: Path) -> None:
    write_cranfield(tmp_path)
    for content, words in (("", "holds no entries"), ("text\n", "Line 1 of .* no field"), (".I\n", "without a number")):
        (tmp_path / "cran.qry").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_collection(tmp_path)
    (tmp_path / "cranqrel").unlink()
    with pytest.raises(DataError, match="has no cranqrel"):
        read_collection(tmp_path)


# tasks


def collection() -> Collection:
    judgements = [Judgement("q1", "a", 1), Judgement("q2", "b", 2), Judgement("q3", "c", 1)]
    return Collection.from_parts("toy", DOCUMENTS, QUERIES, judgements)


def embedded(rows: Dataset, places: dict[str, int]) -> list[dict[str, torch.Tensor]]:
    """Outputs that place each query on the document that answers it, or on another one."""
    documents = {name: torch.eye(4)[place] for place, name in enumerate(DOCUMENTS)}
    vectors = {**documents, **{query: torch.eye(4)[place] for query, place in places.items()}}
    return [{"sentence_embedding": vectors[row["query"] or row["document"]]} for row in rows]


def test_every_query_contributes_to_the_metric() -> None:
    task, rows = retrieval_task(), retrieval_rows(collection())
    right, wrong = (embedded(rows, {"q1": 0, "q2": 1, "q3": third}) for third in (2, 0))
    assert task.score(right, rows) == pytest.approx({"ndcg_at_10": 100, "recall_at_100": 100, "mrr_at_10": 100})
    parts = contributions(task, "mrr_at_10", wrong, rows)
    # of the documents with a cosine of 0, that with the largest id is first: d, c
    assert parts.values[:, 0].tolist() == pytest.approx([1, 1, 1 / 3])
    assert parts.metric == pytest.approx(task.score(wrong, rows)["mrr_at_10"])
    assert agreement_contributions(task.type, right, wrong, rows).values[:2, 0].tolist() == [1, 1]
    assert agreement_contributions(task.type, right, wrong, rows).values[2, 0] < 1


def test_a_query_that_is_a_document_does_not_find_itself() -> None:
    texts = {"1": "warm film", "2": "a warm film"}
    same = Collection.from_parts(
        "duplicates", texts, {"1": "warm film", "2": "other"}, [Judgement("1", "2", 1), Judgement("2", "1", 1)]
    )
    assert same.identical_documents() == {"1": "1"}  # query 2 has the id of a document, and another text
    rows = retrieval_rows(same)
    outputs = [{"sentence_embedding": torch.tensor([1.0, 0.0])}] * 4
    assert retrieval_task().type.rankings(outputs, rows) == {"1": ["2"], "2": ["2", "1"]}  # type: ignore[attr-defined]
    assert rank_by_words(same, 5)["1"] == ["2"]


def test_the_title_of_a_document_that_is_a_query_does_not_count(tmp_path: Path, notes: list[str]) -> None:
    documents = [
        {"_id": "q1", "title": " Films ", "text": "warm film"},
        {"_id": "q2", "title": "cold", "text": "day"},
        {"_id": "q3", "title": "plot", "text": "another"},
    ]
    judgements = "q1\tq2\t1\nq2\tq1\t1\nq3\tq1\t1\n"
    same = read_collection(write_beir(tmp_path / "toy", documents, judgements=judgements))
    assert same.identical_documents() == {"q1": "q1", "q2": "q2"}
    message = "Documents of toy (test) with the id and the text of a query are left out of its ranking: 2 (q1, q2)."
    assert message in notes
    assert "q1" not in rank_by_words(same, 5)["q1"]


def test_a_query_without_candidates_counts_0() -> None:
    rows = reranking_rows(collection(), {"q1": ["a", "b"], "q2": ["a", "b"], "q3": []})
    outputs = [{"logits": torch.tensor([score])} for score in (2.0, 1.0, 1.0, 2.0, 9.0)]
    assert reranking_task().score(outputs, rows)["mrr_at_10"] == pytest.approx(200 / 3)
    assert count_texts(rows, reranking_task()) == 3
    with pytest.raises(DataError, match="first stage found no document of toy"):
        reranking_rows(collection(), {"q1": []})


def test_queries_are_set_aside_and_documents_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MIN_TO_SET_ASIDE", 2)
    task, rows = retrieval_task(), retrieval_rows(collection())
    searched, confirmed = set_aside(rows, task, 0)
    assert confirmed is not None
    for part in (searched, confirmed):
        assert [name for name in part["document"] if name] == list(DOCUMENTS)
    assert sorted([*searched["query"], *confirmed["query"]]) == ["", *[""] * 7, *QUERIES]
    assert (count_texts(searched, task), count_texts(confirmed, task)) == (1, 2)


def test_other_commands_name_the_way_out() -> None:
    with pytest.raises(OptionError, match=r"a task of evaluate and compress; other commands .* --text-file"):
        get_task("retrieval")


def test_prompts_are_part_of_the_rows() -> None:
    rows = retrieval_rows(collection(), "query: ", "text: ")
    assert rows["text"][:4] == ["query: warm film", "query: cold day", "query: plot", "text: a warm film"]
    assert np.array_equal(rows["judged"][:1], ['{"a": 1}'])
