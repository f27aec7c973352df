"""The report page: self-contained, escaped, with a text alternative for every figure, and the same bytes every time."""

import ast
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import bertsurgeon.reporting
from bertsurgeon.checkpoint import check_output, new_folder, save_model
from bertsurgeon.errors import CheckpointError
from bertsurgeon.reporting import REPORT_PAGE, plan_rows, render, write_report_page
from bertsurgeon.testing import toy_classifier
from cli_helpers import run, succeed
from report_cases import HOSTILE, make_report

VOID = {"meta", "link", "br", "img", "hr", "input"}
REMOTE = re.compile(r"https?:|//")


class Page(HTMLParser):
    """Elements and texts of a page; tags that do not match raise."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


CASES: dict[str, dict[str, Any]] = {
    "two classes": {},
    "77 classes": {"classes": 77},
    "regression": {"regression": True},
    "unlabeled": {"labeled": False},
}


@cache
def page_of(case: str) -> str:
    """The page of one of the cases; drawing takes a second."""
    return render(make_report(**CASES[case]))


@pytest.fixture(params=CASES)
def text(request: pytest.FixtureRequest) -> str:
    return page_of(request.param)


def without_figures() -> dict[str, Any]:
    """A report of which only one figure can be drawn."""
    return make_report() | dict.fromkeys(("answers", "plan", "predicted"))


def test_the_page_requests_nothing(text: str) -> None:
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed"}
    for _, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
                assert value is not None
                assert value.startswith("#")
            assert not name.startswith("on")
            if name == "style":
                assert re.sub(r"url\(#\w+\)", "", value or "").count("url(") == 0
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert not REMOTE.search(style)
    assert "DejaVu" not in text  # figures use the fonts of the page


def test_every_figure_has_a_text_alternative(text: str) -> None:
    page = Page(text)
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(figures) >= 5
    assert all(each["role"] == "img" and len(each["aria-label"] or "") > 20 for each in figures)
    assert sum(tag == "figcaption" for tag, _ in page.elements) == len(figures)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)  # also those inside the figures


def test_texts_of_the_user_are_escaped(text: str) -> None:
    assert "<img" not in text
    page = Page(text)
    assert HOSTILE in "".join(page.texts)  # shown as it is, not interpreted


def test_numbers_of_the_report_are_shown() -> None:
    texts = " ".join("".join(Page(page_of("two classes")).texts).split())
    shown = [
        "Bound holds",
        "5.22× smaller",
        "2.06× fewer",
        "4.61× faster",
        "−0.34 points",
        "1.77× the speed and 74 % of the",
    ]
    shown += ["not shown 872 2,140", "16 changed", "98.2 %", "rank 96", "1.3 × 10⁻⁶", "0f0f0f", "17.4 MB"]
    assert [each for each in shown if each not in texts] == []


def test_many_classes_are_reduced_to_those_that_changed_most() -> None:
    text = page_of("77 classes")
    assert "the 10 of 77 classes with most changes" in text
    assert "The 12 of 77 classes that changed most" in text
    start = text.index('aria-label="Answers of the dense model')
    assert len(re.findall(r"<text", text[start : text.index("</svg>", start)])) < 150


def test_the_same_report_gives_the_same_bytes() -> None:
    assert page_of("unlabeled") == render(json.loads(json.dumps(make_report(labeled=False))))


def test_a_report_with_nothing_but_what_is_required() -> None:
    full = make_report()
    report = {key: full[key] for key in ("schema_version", "command", "verdict", "bound", "chosen")}
    names = [{key: one[key] for key in ("name", "kind", "precision")} for one in full["candidates"]]
    Page(render(report | {"candidates": names}))
    empty = {key: None for key in full if key not in (*report, "candidates")}
    Page(render(report | empty | {"candidates": [dict.fromkeys(full["candidates"][0]) | one for one in names]}))
    Page(render(without_figures() | {"chosen": None, "verdict": {"status": "fails", "sentence": "Nothing holds."}}))


def test_texts_that_no_file_can_hold_are_replaced() -> None:
    report = without_figures()
    report["candidates"][0]["name"] = report["verdict"]["sentence"] = "a\x00b \ud800 中文 🙂"
    report["provenance"]["config"] = {"huge": 10**400, "deep": [[{"a": [1.5, None, True]}]]}
    text = render(report)
    assert "a\N{REPLACEMENT CHARACTER}b \N{REPLACEMENT CHARACTER} 中文 🙂" in text
    text.encode("utf-8")


def test_dense_int8_as_the_result() -> None:
    report = without_figures() | {"chosen": "dense int8"}
    assert "Pruning adds nothing to INT8 alone" in render(report)
    untried = [one for one in report["candidates"] if one["kind"] == "dense"]
    text = render(report | {"candidates": untried})
    assert "No pruned model was measured" in text
    assert "adds nothing" not in text


def test_numbers_that_are_not_finite_are_left_out() -> None:
    report = without_figures()
    report["candidates"][3]["speedup"] = float("nan")
    report["speed"][0]["p99_ms"] = float("inf")
    text = render(report)
    assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", text[text.index("</style>") :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"verdict": None}, "verdict has a wrong value"),
        ({"chosen": "another"}, "not among its candidates"),
        ({"candidates": []}, "not among its candidates"),
        ({"candidates": [{"name": "dense"}], "chosen": "dense"}, "candidates.0.kind is missing"),
        ({"answers": {"confusion": {"labels": ["a", "b"], "counts": [[1, 2]]}}}, "not square"),
        ({"answers": {"confusion": {"labels": ["a"], "counts": [[-1]]}}}, "answers.confusion.counts.0.0"),
        ({"plan": [{"layer": 0, "heads": [1]}]}, "plan.0.heads"),
        ({"speed": [{"model": "dense", "batch_size": "x", "length": 128}]}, "speed.0.batch_size"),
    ],
)
def test_damaged_reports_are_refused_in_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        render(make_report() | change)
    assert str(error.value).count("\n") == 0


SMALL_REPORTS: dict[str, dict[str, Any]] = {
    "report.json": {
        "task": "sst2",
        "pruning": {
            "config": {"method": "auto"},
            "sparsity": 0.5,
            "sparse": None,
            "samples": 9,
            "tokens": 99,
            "seconds": {},
        },
        "recovery": None,
        "vocabulary": None,
        "models": {
            "dense": {
                "accuracy": 91.5,
                "encoder_weights": 1000,
                "file_bytes": 4000,
                "flops": 9e9,
                "latency_ms_8x128": 9.0,
            },
            "pruned": {
                "accuracy": 90.5,
                "encoder_weights": 500,
                "file_bytes": 2000,
                "flops": 5e9,
                "latency_ms_8x128": 5.0,
            },
        },
        "environment": {"processor": "A processor", "versions": {"torch": "2.9"}},
    },
    "training_report.json": {"task": None, "recipe": {"epochs": 3}, "metrics": {"agreement": 98.0}},
    "layer_drop.json": {"layers": [0, 2], "of": 4, "encoder_weights": {"before": 400, "after": 200}},
    "vocabulary_report.json": {"texts": 9, "kept": 10, "of": 25, "parameters": [2500, 1000]},
    "bertsurgeon_export.json": {
        "format_version": 1,
        "runtime": "onnx",
        "precision": "int8",
        "inputs": ["input_ids"],
        "outputs": ["logits"],
        "encoder_weights": 500,
        "kept_float": [],
        "check": {"texts": 64, "relative_error": 0.02, "largest_error": 0.1, "agreement": 98.4},
        "quantization": "static",
    },
    "calibration.json": {"format_version": 1, "settings": {"samples": 9}, "seconds": {"statistics": 1.0}, "curves": []},
}


@pytest.mark.parametrize("name", SMALL_REPORTS)
def test_the_command_makes_a_page_of_what_any_command_wrote(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with new_folder(folder) as temporary:
        (temporary / name).write_text(json.dumps(SMALL_REPORTS[name]), encoding="utf-8")
    assert json.loads(succeed("report", folder, "--json").stdout) == {"page": str(folder / REPORT_PAGE)}
    page = Page((folder / REPORT_PAGE).read_text(encoding="utf-8"))
    assert sum(tag in ("td", "dd") for tag, _ in page.elements) >= 2
    succeed("report", folder)  # again, over its own page
    check_output(folder, overwrite=True)  # the folder is still ours
    assert sorted(path.name for path in folder.iterdir()) == sorted(["bertsurgeon_folder.json", REPORT_PAGE, name])


def test_the_plan_of_a_model_folder_is_drawn(tmp_path: Path) -> None:
    from bertsurgeon import AutoConfig, Sparsity, prune

    model, tokenizer, texts = toy_classifier()
    pruned = prune(model, AutoConfig(Sparsity(0.5)), texts, tokenizer)
    rows = plan_rows(pruned.report.plan)
    kept = [share for row in rows for share in row["kept"].values()]
    assert 0.3 < sum(kept) / len(kept) < 0.7
    save_model(pruned.model, tmp_path / "model", tokenizer, {"report.json": SMALL_REPORTS["report.json"]})
    text = write_report_page(tmp_path / "model").read_text(encoding="utf-8")
    assert "Share of the weights that each sub-layer keeps" in text


def test_a_folder_of_the_first_version_stays_replaceable(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "report.json").write_text(json.dumps(SMALL_REPORTS["report.json"]), encoding="utf-8")
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    write_report_page(tmp_path / "model")
    check_output(tmp_path / "model", overwrite=True)


def test_the_drawing_library_is_imported_when_it_is_used() -> None:
    for file in Path(bertsurgeon.reporting.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in ("matplotlib", "jinja2")]


def test_a_page_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(SMALL_REPORTS["report.json"]), encoding="utf-8")
    (tmp_path / REPORT_PAGE).write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match="was not written by bertsurgeon"):
        write_report_page(tmp_path)
    assert (tmp_path / REPORT_PAGE).read_text(encoding="utf-8") == "mine"


EMPTY = '{"task": null, "pruning": {}, "models": {}}'
DEEP = '{"task": null, "pruning": {}, "models": {"a": {}}, "x": ' + "[" * 3000 + "]" * 3000 + "}"


@pytest.mark.parametrize(
    "content", ['{"schema_version"', "[]", "{}", '{"layers": [0], "of": 2}', "\udcff", None, "[" * 9999, EMPTY, DEEP]
)
def test_anything_else_is_refused_in_one_sentence(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    before = sorted(tmp_path.iterdir())
    result = run("report", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.count(".\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    result = run("report", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "There is no folder" in result.stderr
