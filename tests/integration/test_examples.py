"""The examples are run as scripts on toy models."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GALLERY = sorted((EXAMPLES / "gallery").glob("*.py"))


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        ("classifier.py", ["--quick"], ("dense", "50% removed", "75% removed", "accuracy, recovered", "speedup")),
        ("question_answering.py", [], ("dense", "% removed", "removed, recovered", "exact match", "was it lovely?")),
    ],
)
def test_example_ends_in_a_table(script: str, arguments: list[str], shown: tuple[str, ...]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    for word in shown:
        assert word in result.stdout


def test_every_example_has_cells() -> None:
    for script in EXAMPLES.glob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert text.count("\n# %%") >= 5, script


@pytest.mark.parametrize("script", GALLERY, ids=lambda path: path.stem)
def test_gallery_ends_in_a_picture(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "picture.svg"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), str(picture)])
    with mpl.rc_context():
        mpl.use("agg")
        runpy.run_path(str(script), run_name="__main__")
        plt.close("all")
    lines = picture.read_text(encoding="utf-8").count("<path")
    assert lines > 10, "an empty picture"


def test_the_page_of_the_gallery_shows_every_script_and_its_picture() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    names = [script.stem for script in GALLERY]
    assert len(names) >= 6
    assert sorted(re.findall(r"<!-- code: examples/gallery/(\w+)\.py -->", page)) == names
    assert sorted(re.findall(r"\(figures/gallery-(\w+)\.svg\)", page)) == names
    assert all((ROOT / "docs" / "figures" / f"gallery-{name}.svg").is_file() for name in names)
