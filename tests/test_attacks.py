"""Every script in ``attacks`` ends in PASS."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "attacks"
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "def attack(" in path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def attacks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 13


@pytest.mark.parametrize("name", SCRIPTS)
def test_attacks_fail(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    assert module.__doc__
    lines = module.attack(tmp_path / "files" if (tmp_path / "files").mkdir() is None else tmp_path)
    assert lines
