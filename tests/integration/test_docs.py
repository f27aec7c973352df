"""The docs name every public name and every option, and what they say about the code is compared with it."""

import ast
import importlib.util
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import bertsurgeon

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def generate_cli() -> ModuleType:
    """The script docs/generate_cli.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_page_lists_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = [name for name in bertsurgeon.__all__ if not re.search(rf"`{name}\b", page)]
    assert missing == []


def test_the_api_page_lists_no_other_names() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (.*?) \|", page, flags=re.MULTILINE)
    listed = [name for cell in first_cells for name in re.findall(r"`(\w+)", cell)]
    assert set(listed) - set(bertsurgeon.__all__) == set()


def test_every_option_is_documented(generate_cli: ModuleType) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    flags = {
        flag
        for command in generate_cli.commands().values()
        for option in generate_cli.options_of(command)
        for flag in (*option.opts, *option.secondary_opts)
    }
    assert "--sparsity" in flags  # the walk over the commands finds options
    missing = [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", text)]
    assert missing == []


def test_every_command_is_in_the_readme(generate_cli: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in generate_cli.commands() if f"| `bertsurgeon {name}" not in readme]
    assert missing == []


def test_the_page_of_options_is_current(generate_cli: ModuleType) -> None:
    page = generate_cli.PAGE.read_text(encoding="utf-8")
    assert page == generate_cli.make_page(), "run python docs/generate_cli.py"


def test_the_docs_name_no_other_options(generate_cli: ModuleType) -> None:
    options = {
        flag
        for command in generate_cli.commands().values()
        for option in generate_cli.options_of(command)
        for flag in (*option.opts, *option.secondary_opts)
    }
    unknown = []
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for line in re.findall(r"^bertsurgeon .*(?:\\\n.*)*", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            unknown += [
                f"{page.name}: {flag}" for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", line) if flag not in options
            ]
    assert unknown == []


def test_the_import_contract_is_drawn_as_it_is() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    assert "\n".join(["```", *layers, "```"]) in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_table_of_rooms_is_complete() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("## ")[0]
    package = Path(bertsurgeon.__file__).parent
    rooms = [path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    missing = [room for room in rooms if not room.startswith("_") and f"`{room}`" not in table]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = page if not path else page.parent / path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, target


def calls(code: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """The calls of public names."""
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in bertsurgeon.__all__:
            yield node.func.id, node


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_code_uses_the_api_as_it_is(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
        code = ast.parse(block)
        for node in ast.walk(code):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bertsurgeon"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
        for name, call in calls(code):
            keywords = {str(keyword.arg): keyword.value for keyword in call.keywords}
            inspect.signature(getattr(bertsurgeon, name)).bind(*call.args, **keywords)  # raises where they do not fit


def test_paths_in_the_architecture_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([a-z_]+/[a-z_/.-]+)`", text)
    missing = [path for path in paths if not (ROOT / path).exists() and not (ROOT / "src/bertsurgeon" / path).exists()]
    assert missing == []
