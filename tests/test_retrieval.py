"""Searches with models: embedders and rerankers in PyTorch and exported, prompts, paired tests, and the commands."""

import doctest
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertsurgeon import load_model, open_exported, progress
from bertsurgeon.checkpoint import load_embedder, load_tokenizer
from bertsurgeon.compression import report as report_module
from bertsurgeon.errors import CheckpointError, DataError, ModelError, OptionError
from bertsurgeon.retrieval import (
    RetrievalConfig,
    choose_prompt,
    compare_results,
    encoding_of,
    evaluate_retrieval,
    settings_of,
)
from bertsurgeon.sentence_folders import SentenceSettings, read_settings
from bertsurgeon.tasks.retrieval import Collection, paired_difference, rank_by_words, read_collection
from bertsurgeon.workflows import retrieval as workflow
from cli_helpers import FILLER, WORDS, run, succeed, write_model
from retrieval_cases import write_beir

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

VOCABULARY = (*FILLER, *WORDS["good"], *WORDS["bad"])
TEXTS = {
    f"d{number}": " ".join(VOCABULARY[(number * step) % len(VOCABULARY)] for step in range(1, 8))
    for number in range(30)
}
QUESTIONS = {f"q{number}": " ".join(TEXTS[f"d{number}"].split()[:4]) for number in range(0, 24, 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection, a tiny embedder with prompts, and a tiny reranker."""
    root = tmp_path_factory.mktemp("retrieval")
    write_beir(
        root / "beir",
        [{"_id": name, "text": text} for name, text in TEXTS.items()],
        [{"_id": name, "text": text} for name, text in QUESTIONS.items()],
        "".join(f"{query}\td{query[1:]}\t2\n{query}\td29\t1\n" for query in QUESTIONS),
    )
    write_model(root / "plain")
    write_model(root / "reranker", num_labels=1)
    parts = [modules.Transformer(str(root / "plain"), max_seq_length=6), modules.Pooling(32, pooling_mode="cls")]
    whole = sentence_transformers.SentenceTransformer(
        modules=[*parts, modules.Normalize()],
        device="cpu",
        prompts={"query": "the film: ", "passage": "a day: "},
        similarity_fn_name="dot",
    )
    whole.save(str(root / "embedder"), create_model_card=False)
    (root / "texts.txt").write_text("\n".join(TEXTS.values()), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def collection(folder: Path) -> Collection:
    return read_collection(folder / "beir")


def test_an_embedder_ranks_as_sentence_transformers_does(folder: Path, collection: Collection) -> None:
    result = evaluate_retrieval(
        load_embedder(folder / "embedder"), None, collection, load_tokenizer(folder / "embedder"), batch_size=7
    )
    whole = sentence_transformers.SentenceTransformer(str(folder / "embedder"), device="cpu")
    # an empty prompt "document", which version 6 adds to every model, hides "passage" from its encode_document
    queries = whole.encode(list(QUESTIONS.values()), prompt_name="query")
    scores = whole.similarity(queries, whole.encode(list(TEXTS.values()), prompt_name="passage"))
    names = list(TEXTS)
    for row, query in enumerate(QUESTIONS):
        ranked = [float(scores[row][names.index(name)]) for name in result.rankings[query]]
        assert ranked == pytest.approx(sorted(scores[row].tolist(), reverse=True), abs=1e-5)
    assert result.encoding.max_length == 6
    assert (result.encoding.query_prompt, result.encoding.document_prompt) == ("the film: ", "a day: ")
    assert result.encoding.similarity == "dot"
    assert result.truncated > 30


def test_an_exported_embedder_has_the_settings_of_its_model(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    succeed("export", folder / "embedder", "--to", "onnx", "--text-file", folder / "texts.txt", "-o", tmp_path / "onnx")
    assert read_settings(tmp_path / "onnx") == SentenceSettings(
        6, {"query": "the film: ", "passage": "a day: "}, "dot", True
    )
    assert load_tokenizer(tmp_path / "onnx").model_max_length == 6
    names = [
        module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "onnx" / "modules.json").read_text())
    ]
    assert names == ["Transformer", "Pooling", "Normalize"]
    with pytest.raises(ModelError, match="onnx is an exported model, without weights to load"):
        load_model(tmp_path / "onnx")
    pooling = json.loads((tmp_path / "onnx" / "1_Pooling" / "config.json").read_text())
    assert (pooling["pooling_mode_cls_token"], pooling["pooling_mode_mean_tokens"]) == (True, False)
    options = ("--task", "retrieval", "--data-dir", folder / "beir", "--json")
    results = [
        json.loads(succeed("evaluate", model, *options).stdout) for model in (folder / "embedder", tmp_path / "onnx")
    ]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], abs=0.01)
    assert results[0]["encoding"] == results[1]["encoding"]


def test_the_graph_of_an_embedder_begins_with_its_tokens(folder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for runtime in ("onnx", "openvino"):
        pytest.importorskip("openvino" if runtime == "openvino" else "onnxscript")
        succeed(
            "export",
            folder / "embedder",
            "--to",
            runtime,
            "--text-file",
            folder / "texts.txt",
            "-o",
            tmp_path / runtime,
        )
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    model, tokenizer = load_embedder(folder / "embedder"), load_tokenizer(folder / "embedder")
    batch = tokenizer(["the film", "a very old film"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**batch)
    tokens, vectors = session.run(None, {name: batch[name].numpy() for name in (i.name for i in session.get_inputs())})
    mask = batch["attention_mask"].bool().numpy()
    np.testing.assert_allclose(tokens[mask], expected.last_hidden_state.numpy()[mask], atol=1e-4)
    np.testing.assert_allclose(vectors, expected.sentence_embedding.numpy(), atol=1e-4)
    for runtime in ("onnx", "openvino"):
        outputs = open_exported(tmp_path / runtime)(**batch)
        assert list(outputs) == ["sentence_embedding"]  # the tokens are not copied
        torch.testing.assert_close(outputs.sentence_embedding, expected.sentence_embedding, atol=1e-4, rtol=0)


def test_prompts_are_named_or_written() -> None:
    settings = SentenceSettings(prompts={"query": "ask: ", "corpus": "text: ", "passage": "part: "})
    assert choose_prompt(settings, None, ("query",)) == "ask: "
    assert choose_prompt(settings, None, ("document", "passage", "corpus")) == "part: "
    assert choose_prompt(settings, "corpus", ("query",)) == "text: "
    assert choose_prompt(settings, "find this ", ("query",)) == "find this "
    assert choose_prompt(settings, "", ("query",)) == ""
    assert choose_prompt(SentenceSettings(), None, ("query",)) == ""
    with pytest.raises(OptionError, match=r"no prompt 'qery' \(it has: query, corpus, passage\)"):
        choose_prompt(settings, "qery", ("query",))


def test_settings_of_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(progress, "note_once", notes.append)
    exported = SimpleNamespace(folder=tmp_path)
    assert settings_of(exported) == SentenceSettings()  # type: ignore[arg-type]
    assert "no settings of sentence-transformers" in notes[0]
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "a: ", "document": ""}}')
    assert settings_of(exported) == SentenceSettings(prompts={"query": "a: "})  # type: ignore[arg-type]
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    with pytest.raises(CheckpointError, match=r"settings of the embedder in .* are damaged"):
        settings_of(exported)  # type: ignore[arg-type]


def test_prompts_that_the_pooling_ignores_are_refused(folder: Path) -> None:
    model, tokenizer = load_embedder(folder / "embedder"), load_tokenizer(folder / "embedder")
    model.tail[0].include_prompt = False
    with pytest.raises(ModelError, match="include_prompt"):
        encoding_of(model, RetrievalConfig(), tokenizer)
    assert encoding_of(model, RetrievalConfig(query_prompt="", document_prompt=""), tokenizer).query_prompt == ""


@pytest.mark.parametrize(("asked", "cut"), [(5, 5), (128, 128), (129, 128), (100_000, 128)])
def test_the_maximum_length_is_that_of_the_cut(
    asked: int, cut: int, folder: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(progress, "note_once", notes.append)
    model, tokenizer = load_model(folder / "reranker"), load_tokenizer(folder / "reranker")
    candidates = {query: ["d0", "d1"] for query in QUESTIONS}
    result = evaluate_retrieval(model, None, collection, tokenizer, candidates=candidates, max_length=asked)
    assert result.encoding.max_length == result.to_dict()["encoding"]["max_length"] == cut
    message = f"The maximum length of {asked:,} tokens is lowered to 128, the most that the model and its tokenizer"
    assert any(note.startswith(message) for note in notes) == (asked > cut)


def test_the_settings_of_an_embedder_do_not_exceed_its_model(folder: Path) -> None:
    model, tokenizer = load_embedder(folder / "embedder"), load_tokenizer(folder / "embedder")
    tokenizer.model_max_length = 100_000
    assert encoding_of(model, RetrievalConfig(), tokenizer).max_length == 6
    assert encoding_of(model, RetrievalConfig(), tokenizer, 12).max_length == 12
    assert encoding_of(model, RetrievalConfig(), tokenizer, 500).max_length == 128
    model.sentence_model[0].max_seq_length = 500
    assert encoding_of(model, RetrievalConfig(), tokenizer).max_length == 128


def test_a_reranker_sorts_what_the_first_stage_found(folder: Path, collection: Collection) -> None:
    model, tokenizer = load_model(folder / "reranker"), load_tokenizer(folder / "reranker")
    result = evaluate_retrieval(model, RetrievalConfig(candidates=5), collection, tokenizer)
    assert set(result.metrics) == {"ndcg_at_10", "mrr_at_10"}
    assert result.first_stage is not None
    assert result.first_stage["mrr_at_10"] > 30  # the queries are made of the documents' words
    assert result.encoding.max_length == 128
    candidates = rank_by_words(collection, 5)
    for query, documents in result.rankings.items():
        assert set(documents) == set(candidates[query])
        if not documents:
            continue
        queries = [QUESTIONS[query]] * len(documents)
        batch = tokenizer(queries, [TEXTS[name] for name in documents], padding=True, return_tensors="pt")
        with torch.inference_mode():
            scores = model(**batch).logits[:, 0].tolist()
        assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q0": None}, "no candidates for query 'q0' of .*; give an empty list if the first stage has none"),
        ({"q99": ["d1"]}, "name the query 'q99', which is no judged query of .*; leave it out"),
        ({"q2": ["d1", "d99"]}, "of query 'q2' name the document 'd99', which .* does not hold; leave it out"),
        ({"q2": ["d1", "d2", "d1"]}, "of query 'q2' name a document twice; leave the second one out"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(
    changes: dict[str, list[str] | None], words: str, folder: Path, collection: Collection
) -> None:
    candidates = {**{query: ["d0"] for query in QUESTIONS}, **changes}
    fitting = {query: documents for query, documents in candidates.items() if documents is not None}
    model, tokenizer = load_model(folder / "reranker"), load_tokenizer(folder / "reranker")
    with pytest.raises(DataError, match=words):
        evaluate_retrieval(model, None, collection, tokenizer, candidates=fitting)


def test_embedders_take_no_candidates(folder: Path, collection: Collection) -> None:
    model, tokenizer = load_embedder(folder / "embedder"), load_tokenizer(folder / "embedder")
    with pytest.raises(OptionError, match="Candidates are for rerankers"):
        evaluate_retrieval(model, None, collection, tokenizer, candidates={query: ["d0"] for query in QUESTIONS})


def test_the_example_runs() -> None:
    [example] = doctest.DocTestFinder(recurse=False).find(evaluate_retrieval, globs={})
    assert any("evaluate_retrieval(" in each.source for each in example.examples)
    report: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed == 0, "".join(report)


def test_models_that_neither_embed_nor_score_are_refused(folder: Path, collection: Collection) -> None:
    with pytest.raises(ModelError, match="classification into 2 classes, but task 'retrieval' is the score of a query"):
        evaluate_retrieval(load_model(folder / "plain"), None, collection, load_tokenizer(folder / "plain"))


def test_paired_differences() -> None:
    reference = np.linspace(0.1, 0.5, 8)
    same = paired_difference(reference, reference)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    # eight queries that all change in one direction: 2 of 2⁸ assignments of signs are as extreme
    better = paired_difference(reference, reference + np.linspace(0.1, 0.2, 8))
    assert better.difference == pytest.approx(15)
    assert better.p == pytest.approx(2 / 2**8)
    assert 10 < better.low < 15 < better.high < 20
    spread = float(np.std(np.linspace(10, 20, 8), ddof=1))
    assert better.detectable == pytest.approx((1.959964 + 0.841621) * spread / np.sqrt(8), rel=1e-5)
    mixed = paired_difference(reference, reference + np.array([0.1, -0.1] * 4))
    assert mixed.p > 0.9
    assert paired_difference(reference[:1], reference[1:2]).detectable is None


def test_results_of_other_queries_are_not_compared(folder: Path, collection: Collection) -> None:
    model, tokenizer = load_embedder(folder / "embedder"), load_tokenizer(folder / "embedder")
    result = evaluate_retrieval(model, None, collection, tokenizer)
    fewer = Collection("fewer", collection.documents, {"q0": QUESTIONS["q0"]}, {"q0": {"d0": 1}})
    with pytest.raises(OptionError, match="different queries"):
        compare_results(result, evaluate_retrieval(model, None, fewer, tokenizer))


# commands


def test_evaluate_prints_differences(folder: Path) -> None:
    options = ("--task", "retrieval", "--data-dir", folder / "beir")
    text = succeed("evaluate", folder / "embedder", "--reference", folder / "embedder", *options).output
    assert "ndcg_at_10" in text
    assert "+0.00 to +0.00" in text
    options = (*options, "--first-stage", folder / "embedder", "--candidates", "4", "--json")
    result = json.loads(succeed("evaluate", folder / "reranker", *options).stdout)
    alone = json.loads(succeed("evaluate", folder / "embedder", *options[:4], "--json").stdout)
    assert result["queries"] == 12
    assert result["first_stage"]["ndcg_at_10"] <= alone["metrics"]["ndcg_at_10"]
    assert set(result["by_query"]["mrr_at_10"]) == set(QUESTIONS)


def test_a_reranker_is_compared_with_its_first_stage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[object] = []

    @contextmanager
    def record(device: object, *models: object) -> Iterator[None]:
        devices.append((device, type(models[0]).__name__))
        yield

    monkeypatch.setattr(workflow, "running_on", record)
    options = ("--task", "retrieval", "--data-dir", folder / "beir", "--first-stage", folder / "embedder", "--json")
    for model, reference in (("reranker", "embedder"), ("embedder", "reranker")):
        report = json.loads(succeed("evaluate", folder / model, "--reference", folder / reference, *options).stdout)
        assert set(report["differences"]) == {"ndcg_at_10", "mrr_at_10"}
        results = {model: report, reference: report["reference"]}
        first_stage, embedder = results["reranker"]["first_stage"], results["embedder"]["metrics"]
        assert first_stage["mrr_at_10"] == pytest.approx(embedder["mrr_at_10"])
    assert devices == [(None, "Embedder")] * 2


@pytest.mark.parametrize(
    ("model", "others", "words"),
    [
        ("embedder", ["--reference", "{}/nowhere"], "nowhere"),
        ("embedder", ["--reference", "{}/plain"], "classification into 2 classes"),
        ("embedder", ["--reference", "{}/reranker", "--first-stage", "{}/nowhere"], "nowhere"),
        ("embedder", ["--reference", "{}/reranker", "--first-stage", "{}/reranker"], "is no embedder"),
        ("embedder", ["--reference", "{}/embedder", "--candidates", "5"], "has no effect without a reranker"),
        ("reranker", ["--reference", "{}/nowhere"], "nowhere"),
    ],
)
def test_all_models_are_checked_before_the_first_search(
    model: str, others: list[str], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a search has begun")

    for name in ("evaluate_retrieval", "search", "rank_by_words"):
        monkeypatch.setattr(workflow, name, fail)
    options = ("--task", "retrieval", "--data-dir", folder / "beir")
    result = run("evaluate", folder / model, *options, *(each.format(folder) for each in others))
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "retrieval"], "--task retrieval needs a collection: name its folder with --data-dir"),
        (["--task", "sst2", "--candidates", "5"], "--candidates has no effect without --task retrieval"),
        (["--task", "retrieval", "--data-dir", "{}/beir", "--label-column", "x"], "--label-column has no effect with"),
        (["--task", "retrieval", "--data-dir", "{}/beir", "--text-file", "{}/texts.txt"], "--text-file has no effect"),
        (["--task", "retrieval", "--data-dir", "{}/beir", "--candidates", "5"], "has no effect without a reranker"),
        (["--task", "retrieval", "--data-dir", "{}/beir", "--candidates", "1"], "must lie between 2 and 100, not 1"),
        (["--task", "retrieval", "--data-dir", "{}/beir", "--task-type", "regression"], "--task-type can only be"),
        (["--task", "retrieval", "--data-dir", "{}/plain"], "holds no retrieval collection"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], words: str, folder: Path) -> None:
    result = run("evaluate", folder / "embedder", *(argument.format(folder) for argument in arguments))
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_prompts_and_embedders_do_not_fit_rerankers(folder: Path) -> None:
    options = ("--task", "retrieval", "--data-dir", folder / "beir")
    result = run("evaluate", folder / "reranker", *options, "--query-prompt", "a: ")
    assert (result.exit_code, "Prompts are for embedders" in " ".join(result.output.split())) == (2, True)
    result = run("evaluate", folder / "reranker", *options, "--first-stage", folder / "reranker")
    assert (result.exit_code, "is no embedder" in " ".join(result.output.split())) == (2, True)


def test_compress_takes_a_search_as_its_bound(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "measure_memory", lambda *arguments: 1)
    options = ("--task", "retrieval", "--data-dir", folder / "beir", "--to", "pytorch", "--max-drop", "60")
    few = ("--max-candidates", "2", "--no-recover", "--length", "8", "--json")
    report = json.loads(succeed("compress", folder / "embedder", *options, *few, "-o", tmp_path / "small").stdout)
    assert report["bound"]["metric"] == "ndcg_at_10"
    assert report["data"]["search"] == 12  # queries
    assert report["data"]["training"] == 30  # documents
    assert [file["name"] for file in report["data"]["files"]] == ["corpus.jsonl", "queries.jsonl", "test.tsv"]
    assert "on 12 queries" in report["verdict"]["sentence"]
    assert set(report["reference"]) == {"ndcg_at_10", "recall_at_100", "mrr_at_10"}
    assert report["candidates"][1]["quality"]["texts"] == 12
    # the metric of the report is that of evaluate
    result = json.loads(succeed("evaluate", tmp_path / "small", *options[:4], "--json").stdout)
    chosen = next(one for one in report["candidates"] if one["name"] == report["chosen"])
    assert result["metrics"]["ndcg_at_10"] == pytest.approx(chosen["metrics"]["ndcg_at_10"], abs=0.1)


def test_compress_of_a_reranker_needs_pairs(folder: Path, tmp_path: Path) -> None:
    options = ("--task", "retrieval", "--data-dir", folder / "beir", "--to", "pytorch", "-o", tmp_path / "small")
    result = run("compress", folder / "reranker", *options)
    assert (result.exit_code, "pairs of texts without labels" in " ".join(result.output.split())) == (2, True)
    assert not (tmp_path / "small").exists()


def test_the_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    options = ("--task", "retrieval", "--data-dir", folder / "beir")
    for command in (("evaluate",), ("compress", "-o", tmp_path / "small")):
        result = run(command[0], folder / "embedder", *options, *command[1:])
        assert result.exit_code == 2
        assert "pip install 'bertsurgeon[retrieval]'" in " ".join(result.output.split())
