"""``compress`` on a toy: the folder it writes, what a repeated search does again, and what it refuses."""

import json
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from bertsurgeon import CompressConfig, CompressData, compress, get_plan
from bertsurgeon.checkpoint.folder_record import foreign_file
from bertsurgeon.compression import Provenance, candidates, work_folder
from bertsurgeon.compression import report as report_module
from bertsurgeon.compression.inputs import SearchInputs, set_aside
from bertsurgeon.compression.work_folder import WorkFolder, load_outputs, save_outputs, setting_key
from bertsurgeon.errors import CheckpointError, DataError, ModelError, OptionError
from bertsurgeon.reporting import render
from bertsurgeon.tasks import TASK_TYPES, Task
from bertsurgeon.testing import toy_classifier

TASK = Task("own", metrics=("accuracy",), labels=("bad", "good"))
LOOSE = CompressConfig(max_drop=40.0, runtime="pytorch", length=16, max_candidates=3, recover=False)


@pytest.fixture(scope="module")
def toy():
    return toy_classifier()


@pytest.fixture(autouse=True)
def no_process_for_memory(monkeypatch):
    """Memory is measured in processes of their own, which import everything again."""
    monkeypatch.setattr(report_module, "measure_memory", lambda *arguments: 1)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A search whose memory is measured as users have it."""
    model, tokenizer, texts = toy
    output = tmp_path_factory.mktemp("compress") / "small"
    provenance = Provenance("toy", files=[{"name": "train.csv", "bytes": 1, "sha256": "0"}])
    return compress(model, LOOSE, CompressData(texts, texts, TASK), tokenizer, output=output, provenance=provenance)


def test_the_folder_is_a_model_with_its_report_and_card(finished, toy):
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "report.html", "report.json"} <= names
    assert foreign_file(folder) is None  # --overwrite replaces it
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(finished.report))
    with warnings.catch_warnings(action="error"):  # such as a figure that cannot be laid out
        assert render(report) == (folder / "report.html").read_text()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert get_plan(loaded) is not None
    chosen = next(one for one in report["candidates"] if one["name"] == report["chosen"])
    assert chosen["kind"] == "pruned"
    assert {file["name"] for file in report["files"]} >= {"config.json", "model.safetensors"}
    assert report["verdict"]["status"] == chosen["quality"]["verdict"]
    assert report["data"]["search"] == 64
    assert report["answers"]["confusion"]["labels"]
    assert sum(map(sum, report["answers"]["confusion"]["counts"])) == 64
    # the model in the folder gives the answers that were measured
    model, tokenizer, texts = toy
    inputs = tokenizer(list(texts["text"]), return_tensors="pt", padding=True)
    with torch.inference_mode():
        same = (loaded(**inputs).logits.argmax(-1) == model(**inputs).logits.argmax(-1)).float().mean()
    assert 100 * float(same) == pytest.approx(chosen["agreement"])


def test_a_repeated_search_does_nothing_again(finished, toy, monkeypatch):
    model, tokenizer, texts = toy
    for name in ("calibrate", "measure_costs", "apply_calibrated_plan"):
        monkeypatch.setattr(candidates, name, lambda *args, name=name, **kwargs: pytest.fail(f"{name} again"))
    counted, make = [], candidates.CandidateMaker.make

    def record(maker, spec, **options):
        candidate = make(maker, spec, **options)
        counted.extend([set(maker.step_seconds)] * (spec.share is not None))
        return candidate

    monkeypatch.setattr(candidates.CandidateMaker, "make", record)
    again = compress(model, LOOSE, CompressData(texts, texts, TASK), tokenizer, output=finished.folder, overwrite=True)
    assert again.report["chosen"] == finished.report["chosen"]
    assert again.report["candidates"] == finished.report["candidates"]
    assert again.report["seconds"] == finished.report["seconds"]
    # from the first pruned model on, so that the time limit is reached where it was
    assert counted
    assert all(steps == {"calibration", "latency model"} for steps in counted)


def test_another_bound_uses_the_same_candidates(finished, toy, monkeypatch):
    model, tokenizer, texts = toy
    monkeypatch.setattr(candidates, "apply_calibrated_plan", lambda *args: pytest.fail("pruned again"))
    strict = CompressConfig(
        min_agreement=60, accept="shown", runtime="pytorch", length=16, max_candidates=3, recover=False
    )
    result = compress(
        model, strict, CompressData(texts, texts, TASK), tokenizer, output=finished.folder, overwrite=True
    )
    assert [one["name"] for one in result.report["candidates"]] == [
        one["name"] for one in finished.report["candidates"]
    ]
    assert result.report["bound"]["metric"] == "agreement"


def test_another_objective_measures_its_own_costs(finished, toy, monkeypatch):
    model, tokenizer, texts = toy
    measure, objectives = candidates.measure_costs, []

    def recorded(unfused, calibration, objective, *rest):
        objectives.append(objective)
        return measure(unfused, calibration, objective, *rest)

    monkeypatch.setattr(candidates, "measure_costs", recorded)
    smallest = replace(LOOSE, objective="size", max_candidates=2)
    compress(model, smallest, CompressData(texts, texts, TASK), tokenizer, output=finished.folder, overwrite=True)
    assert objectives == ["size"]


def test_another_task_scores_the_same_answers(finished, toy, monkeypatch):
    model, tokenizer, texts = toy
    monkeypatch.setattr(candidates, "apply_calibrated_plan", lambda *args: pytest.fail("pruned again"))
    other = replace(TASK, metrics=("f1",))
    data = CompressData(texts, texts, other)
    report = compress(model, LOOSE, data, tokenizer, output=finished.folder, overwrite=True).report
    assert all(set(one["metrics"]) == {"f1"} for one in report["candidates"])


def test_own_lengths_with_fewer_texts_than_a_batch(toy):
    model, tokenizer, texts = toy
    inputs = SearchInputs.prepare(model, CompressData(texts, texts, TASK), tokenizer, 0)
    assert [len(batch["input_ids"]) for batch in inputs.batches(tokenizer, 100)] == [64]
    assert [len(batch["input_ids"]) for batch in inputs.batches(tokenizer, 48)] == [48]


def test_other_data_makes_other_candidates(finished, toy):
    model, tokenizer, texts = toy
    work = WorkFolder.beside(finished.folder)
    before = sorted(path.name for path in work.folder.glob("c*-*"))
    compress(
        model,
        LOOSE,
        CompressData(texts, texts.select(range(32)), TASK),
        tokenizer,
        output=finished.folder,
        overwrite=True,
    )
    after = sorted(path.name for path in work.folder.glob("c*-*"))
    new = set(after) - set(before)
    assert len(new) == 3  # the texts that are compared changed, those of the calibration did not
    assert all(name.startswith("candidate-") for name in new)


def test_the_winner_is_confirmed_on_texts_that_the_search_did_not_use(finished, toy):
    model, tokenizer, texts = toy
    _, _, other = toy_classifier(seed=5)
    data = CompressData(texts, texts, TASK, test=other)
    report = compress(model, LOOSE, data, tokenizer, output=finished.folder, overwrite=True).report
    confirmation = report["confirmation"]
    assert confirmation["texts"] == 64
    assert report["verdict"]["status"] == confirmation["verdict"]
    dense = confirmation["metrics"]["dense"]["accuracy"]
    assert confirmation["loss"] == pytest.approx(dense - confirmation["metrics"]["chosen"]["accuracy"])


def test_texts_alone_bound_the_agreement(toy, tmp_path):
    model, tokenizer, texts = toy
    sentences = list(texts["text"])
    config = CompressConfig(min_agreement=50, runtime="pytorch", length=16, max_candidates=2, objective="size")
    report = compress(model, config, CompressData(sentences, sentences), tokenizer, output=tmp_path / "o").report
    assert report["task"] is None
    assert report["candidates"][0]["metrics"] == {}
    assert report["bound"] == {"kind": "min_agreement", "value": 50.0, "confidence": 0.95, "metric": "agreement"}


def test_exported_graph_in_the_folder(toy, tmp_path):
    from bertsurgeon import open_exported

    model, tokenizer, texts = toy
    config = CompressConfig(max_drop=60.0, runtime="onnx", length=16, max_candidates=3, objective="size", recover=False)
    result = compress(model, config, CompressData(texts, texts, TASK), tokenizer, output=tmp_path / "o")
    candidates_ = {one["name"]: one for one in result.report["candidates"]}
    assert {"dense", "dense int8"} <= set(candidates_)
    chosen = candidates_[result.report["chosen"]]
    exported = open_exported(tmp_path / "o" / "onnx")
    inputs = tokenizer(list(texts["text"]), return_tensors="pt", padding=True)
    answers = exported(**inputs).logits.argmax(-1)
    correct = 100 * float((answers == torch.tensor(texts["label"])).float().mean())
    assert correct == pytest.approx(chosen["metrics"]["accuracy"], abs=100 / 64)
    assert result.report["invariance"]["alone_vs_batch"]["flips"] is not None


def test_two_searches_do_not_share_a_work_folder(finished, toy):
    model, tokenizer, texts = toy
    search = partial(compress, model, LOOSE, CompressData(texts, texts, TASK), tokenizer, output=finished.folder)
    with ThreadPoolExecutor(1) as other, WorkFolder.beside(finished.folder).open():
        running = other.submit(search, overwrite=True)
        with pytest.raises(CheckpointError, match="in use by another thread"):
            running.result()


def test_the_setting_of_a_candidate(monkeypatch):
    model, _, _ = toy_classifier()
    before = setting_key(model, "onnx")
    model.config._name_or_path = "elsewhere"
    assert setting_key(model, "onnx") == before
    model.config.id2label = {0: "no", 1: "yes"}
    named = setting_key(model, "onnx")
    assert named != before
    monkeypatch.setattr(work_folder, "version", lambda package: "99")
    assert setting_key(model, "onnx") != named


def test_damaged_json_is_one_sentence(tmp_path):
    work = WorkFolder.beside(tmp_path / "o")
    with work.open():
        (work.folder / "values.json").write_text("[]")
        with pytest.raises(CheckpointError, match="damaged"):
            work.value("a", lambda: 1)


def test_what_a_killed_search_had_begun_to_write_is_removed(tmp_path):
    work = WorkFolder.beside(tmp_path / "o")
    with work.open(), work.new_candidate("a") as folder:
        unfinished = folder.with_name(folder.name + "x")  # what a killed process leaves
        shutil.copytree(folder, unfinished)
    assert unfinished.is_dir()
    with work.open():
        assert not unfinished.exists()


def test_a_foreign_work_folder_is_refused(toy, tmp_path):
    model, tokenizer, texts = toy
    thesis = tmp_path / "o.search" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years")
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        compress(model, LOOSE, CompressData(texts, texts, TASK), tokenizer, output=tmp_path / "o")
    assert thesis.read_text() == "years"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 1.0, "min_agreement": 99.0}, "one bound"),
        ({"max_drop": 0.0}, "max_drop"),
        ({"min_agreement": 100.0}, "min_agreement"),
        ({"confidence": 0.4}, "confidence"),
        ({"runtime": "onnx", "precision": "bf16"}, "onnx runs in fp32 or int8"),
        ({"minutes": 0.0}, "minutes"),
        ({"max_candidates": 1}, "at least 2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError, match=message):
        CompressConfig(**options)


def test_bad_input_is_refused(toy, tmp_path):
    model, tokenizer, texts = toy
    with pytest.raises(OptionError, match="CompressData"):
        compress(model, LOOSE, list(texts["text"]), tokenizer, output=tmp_path / "o")
    with pytest.raises(OptionError, match="needs labels"):
        compress(model, LOOSE, CompressData(["a film"], ["a film"]), tokenizer, output=tmp_path / "o")
    unlabeled, other = texts.remove_columns("label"), Task("other", metrics=("accuracy",), labels=("a", "b", "c"))
    with pytest.raises(DataError, match="no labels"):
        compress(model, LOOSE, CompressData(texts, unlabeled, TASK), tokenizer, output=tmp_path / "o")
    with pytest.raises(ModelError):
        compress(model, LOOSE, CompressData(texts, texts, other), tokenizer, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_halves_keep_the_rows_of_a_question_together():
    rows = Dataset.from_dict({"example": [number // 3 for number in range(9000)], "input_ids": [[1]] * 9000})
    task = Task("own", type=TASK_TYPES["question-answering"], metrics=("f1",), labels=())
    searched, confirmed = set_aside(rows, task, seed=0)
    assert set(searched["example"]).isdisjoint(confirmed["example"])
    assert len(searched) == len(confirmed) == 4500
    few = rows.select(range(3000))
    assert set_aside(few, task, seed=0) == (few, None)  # 1,000 questions


def test_outputs_of_any_shape_are_kept(tmp_path):
    outputs = [
        {"logits": torch.randn(3, 2), "start": torch.randn(3)},
        {"logits": torch.randn(1, 2), "start": torch.randn(1)},
    ]
    save_outputs(tmp_path / "o.safetensors", outputs)
    for row, loaded in zip(outputs, load_outputs(tmp_path / "o.safetensors"), strict=True):
        assert all(torch.equal(row[name], loaded[name]) for name in row)
    (tmp_path / "o.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged"):
        load_outputs(tmp_path / "o.safetensors")


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (candidates, "calibrate", 1),
        (candidates, "measure_costs", 1),
        (candidates, "predict_outputs", 3),
        (candidates, "time_batches", 2),
        (report_module, "measure_speed", 1),
    ],
)
def test_a_search_that_is_interrupted_goes_on_where_it_was(toy, tmp_path, monkeypatch, module, name, call):
    model, tokenizer, texts = toy
    data, calls, original = CompressData(texts, texts, TASK), [], getattr(module, name)

    def interrupted(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    calibrations = []
    calibrate = candidates.calibrate
    monkeypatch.setattr(candidates, "calibrate", lambda *a: calibrations.append(1) or calibrate(*a))
    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(model, LOOSE, data, tokenizer, output=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    work = WorkFolder.beside(tmp_path / "o").folder
    kept = {path: path.stat().st_mtime_ns for path in work.glob("c*-*")}
    report = compress(model, LOOSE, data, tokenizer, output=tmp_path / "o").report
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing that was finished is made again
    assert len(calibrations) <= 1
    assert report["candidates"][0]["name"] == "dense"
    assert len(report["candidates"]) == 3
    assert not list(work.glob(".*"))


def test_test_texts_are_others_than_those_of_the_search(toy, tmp_path):
    model, tokenizer, texts = toy
    with pytest.raises(DataError, match="test data is the validation data"):
        compress(model, LOOSE, CompressData(texts, texts, TASK, test=texts), tokenizer, output=tmp_path / "o")
