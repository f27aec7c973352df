"""What is released: a wheel with all files of the package, and a version that is written once."""

import importlib.util
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
