"""What is released: a wheel with all files of the package, and a version that is written once."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_release() -> ModuleType:
    """The script tools/check_release.py as a module."""
    spec = importlib.util.spec_from_file_location("check_release", ROOT / "tools" / "check_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built with the hatchling that is installed."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_every_file(wheel: Path, check_release: ModuleType) -> None:
    import zipfile

    assert check_release.missing_from_wheel(wheel) == []
    names = zipfile.ZipFile(wheel).namelist()
    assert "bertsurgeon/py.typed" in names
    assert any(name.startswith("bertsurgeon/reporting/templates/") for name in names)
    assert any(name.startswith("bertsurgeon/gradual/recipes/") and name.endswith(".yaml") for name in names)


def test_the_version_from_the_wheel(wheel: Path, tmp_path: Path, check_release: ModuleType) -> None:
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        str(tmp_path),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "bin" / "bertsurgeon"), "--version"]
    output = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert output == f"bertsurgeon {check_release.project_version()}\n"


def test_the_version_is_written_once(check_release: ModuleType) -> None:
    version = check_release.project_version()
    sources = [path for path in (ROOT / "src").rglob("*.py") if f'"{version}"' in path.read_text(encoding="utf-8")]
    assert [path.name for path in sources] == []
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


def test_both_papers_can_be_cited() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.safe_load(text)
    urls = [each["url"] for each in citation["references"]]
    assert urls == ["https://arxiv.org/abs/2502.03984", "https://arxiv.org/abs/2203.07259"]
    assert all(each["authors"] and each["title"] and each["year"] for each in citation["references"])
    license_name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"]
    assert citation["license"] == license_name


def test_the_quickstart_is_what_the_release_check_runs(check_release: ModuleType) -> None:
    commands = check_release.quickstart_commands()
    assert [command.split()[1] for command in commands] == ["compress", "bench"]
    assert len(check_release.quickstart_code()) == 2
    for code in check_release.quickstart_code():
        compile(code, "quickstart.md", "exec")


def executable(path: Path, script: str) -> None:
    """Writes a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a pyenv whose shims select no version; 3.12.11 is broken, 3.13 is not installed."""
    root = tmp_path / "pyenv"
    executable(root / "bin" / "pyenv", f"echo {root}")
    for minor in ("3.12", "3.13"):
        executable(root / "bin" / f"python{minor}", f"echo 'pyenv: python{minor}: command not found' >&2; exit 127")
    for version in ("3.12.2", "3.12.10"):
        executable(root / "versions" / version / "bin" / "python", f"echo {version}")
    executable(root / "versions" / "3.12.11" / "bin" / "python", "exit 1")
    executable(root / "versions" / "3.12-dev" / "bin" / "python", "echo 3.12.12")
    monkeypatch.setenv("PATH", str(root / "bin"))
    return root


def test_the_newest_interpreter_of_pyenv_that_starts(pyenv: Path, check_release: ModuleType) -> None:
    assert check_release.find_interpreter("3.12") == pyenv / "versions" / "3.12.10" / "bin" / "python"
    assert check_release.find_interpreter("3.13") is None


def test_an_interpreter_on_the_path(pyenv: Path, check_release: ModuleType) -> None:
    executable(pyenv / "bin" / "python3.13", "echo 3.13.0")
    assert check_release.find_interpreter("3.13") == pyenv / "bin" / "python3.13"
    executable(pyenv / "bin" / "pyenv", "exit 1")
    assert check_release.find_interpreter("3.13") == pyenv / "bin" / "python3.13"


def test_a_python_that_is_not_installed_is_skipped(
    tmp_path: Path,
    pyenv: Path,
    check_release: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def check(environment: object, *_: object) -> dict[str, object]:
        return {**vars(environment), "available": True, "error": None}

    monkeypatch.setattr(check_release, "build", lambda folder: (folder / "x.whl", folder / "x.tar.gz"))
    monkeypatch.setattr(check_release, "check", check)
    path = tmp_path / "checks.json"

    def exit_code(*pythons: str) -> object:
        arguments = ["check_release.py", "--python", *pythons, "--torch", "2.6.0", "--record", str(path)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as error:
            check_release.main()
        return error.value.code

    assert exit_code("3.12", "3.13") == 0
    assert "Skipped Python 3.13: it is not installed." in capsys.readouterr().out
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["python"], row["torch"], row["available"]) for row in rows] == [
        ("3.12", "2.6.0", True),
        ("3.13", "2.6.0", False),
    ]
    assert "No environment was checked" in str(exit_code("3.13"))
    executable(pyenv / "versions" / "3.12.10" / "bin" / "python", "exit 1")
    executable(pyenv / "versions" / "3.12.2" / "bin" / "python", "exit 1")
    assert "No environment was checked" in str(exit_code("3.12"))
    assert json.loads(path.read_text(encoding="utf-8")) == rows


def test_the_page_of_releases_has_the_recorded_checks(check_release: ModuleType) -> None:
    rows = json.loads((ROOT / "tools" / "release_checks.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| 3.")]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [row["python"], row["transformers"], row["torch"]]
        if not row["available"]:
            assert cells[3] == "not installed"
        else:
            assert cells[3].startswith("passes" if row["error"] is None else "fails")
