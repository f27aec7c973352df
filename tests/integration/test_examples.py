"""The examples are run as scripts on toy models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


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
