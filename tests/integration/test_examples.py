"""The examples, run as scripts on toys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        ("classifier.py", ["--quick"], ("dense", "50% pruned", "75% pruned", "accuracy, recovered", "times faster")),
        ("question_answering.py", [], ("dense", "% pruned", "and recovered", "exact match", "was it lovely?")),
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
