"""A short form of ``attacks/fuzz/run.py``: mutated files are refused in one sentence, or read as what was written."""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ATTACKS = Path(__file__).parents[1] / "attacks"
NAMES = {
    "checkpoint auto": 12,
    "checkpoint pgb, without digests": 12,
    "checkpoint obert": 12,
    "checkpoint dense": 12,
    "from_pretrained auto": 6,
    "plan": 150,
    "calibration": 40,
    "calibration, without digests": 40,
    "manifest": 150,
    "manifest of 0.1.0": 150,
    "recipe": 40,
    "data rows.csv": 15,
    "data rows.json": 15,
    "data squad.json": 15,
    "verify": 8,
}
"""Targets, and how many cases of each are run."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(ATTACKS))
    from fuzz.targets import make_targets

    yield make_targets(tmp_path_factory.mktemp("corpus"))
    sys.path.remove(str(ATTACKS))


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files(name: str, targets: dict[str, Any]) -> None:
    target = targets[name]

    @settings(max_examples=NAMES[name], suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 2**32))
    def run(seed: int) -> None:
        target.case(Random(seed))

    run()


def test_a_failure_is_noticed(targets: dict[str, Any]) -> None:
    """The check is not blind: a reader that ignores what it reads, or breaks, is a failure."""
    target = targets["manifest"]
    read = target.read
    for broken in (lambda _: object(), lambda _: 1 / 0):
        target.read = broken
        with pytest.raises((AssertionError, ZeroDivisionError)):
            target.case(Random(0))
    target.read = read


def test_a_case_does_not_depend_on_earlier_ones(targets: dict[str, Any]) -> None:
    """A value that is put into a file is a copy: a later change of it would reach all cases that follow."""
    from fuzz.mutations import VALUES, mutate_json

    before = repr(VALUES)
    for seed in range(2000):
        mutate_json(b'{"a": [1, 2], "b": {"c": []}}', Random(seed))
    assert repr(VALUES) == before
