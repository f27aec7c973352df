"""The documentation site: built strictly, complete, without dead links, and without anything from other hosts."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bertsurgeon

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = Path(bertsurgeon.__file__).parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` builds it: a warning, such as one of a dead link or anchor, is an error."""
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr, result.stderr
    return folder


HOSTS = {
    "doi.org",
    "arxiv.org",
    "huggingface.co",
    "keepachangelog.com",
    "semver.org",
    "squidfunk.github.io",
}
"""Hosts that pages link to; CI reaches none, so a new one is to be looked at by a person."""


class Fetches(HTMLParser):
    """What a browser fetches to show a page, and the anchors and links in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if "src" in attributes:
            self.fetched.append(attributes["src"])
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.fetched.append(attributes["href"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        self.anchors |= {attributes[name] for name in ("id", "name") if name in attributes}


def parse(page: Path) -> Fetches:
    parser = Fetches()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_nothing_is_fetched_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("index.html"))
    assert len(pages) > 25
    fetched = {(page.parent.name, url) for page in pages for url in parse(page).fetched}
    assert any(url.endswith(".js") for _, url in fetched)  # the parser finds what is fetched
    assert [each for each in fetched if re.match(r"(\w+:)?//", each[1])] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [url for style in styles for url in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)]*)", style)] == []


def test_no_link_and_no_figure_is_dead(site: Path) -> None:
    pages = {page: parse(page) for page in site.rglob("index.html")}
    dead = []
    for page, content in pages.items():
        for link in {*content.links, *content.fetched}:
            if re.match(r"(\w+:|//)", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path.partition("?")[0]).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                dead.append(f"{page.parent.name}: {link}")
    assert dead == []


def test_links_to_other_hosts_are_known_ones(site: Path) -> None:
    links = {link for page in site.rglob("index.html") for link in parse(page).links if re.match(r"https?:", link)}
    assert {link for link in links if link.partition("://")[2].partition("/")[0] not in HOSTS} == set()
    assert len(links) > 15


def test_search_finds_what_people_look_for(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    for word in ("int8", "onnx", "speed"):
        hits = {entry["location"].partition("#")[0] for entry in entries if word in entry["text"].lower()}
        titles = [entry["title"] for entry in entries if word in entry["title"].lower()]
        assert len(hits) >= 5, word
        assert titles, word  # titles weigh most in the ranking


def test_every_public_name_has_its_place(site: Path) -> None:
    anchors = parse(site / "reference" / "index.html").anchors
    assert {f"bertsurgeon.{name}" for name in bertsurgeon.__all__} - anchors == set()


def test_every_page_is_in_the_navigation(site: Path) -> None:
    links = {link.removeprefix("./").partition("/")[0] for link in parse(site / "index.html").links}
    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert pages - links == set()


def test_the_reference_has_every_public_name_once() -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: bertsurgeon\.(\w+)$", page, flags=re.MULTILINE)) == sorted(bertsurgeon.__all__)


def sentences_of_the_code() -> set[str]:
    """Every text in the code, with … for what is filled in."""
    sentences = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                sentences.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                sentences.add(node.value)
    return sentences


def test_troubleshooting_quotes_what_the_code_prints() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quotes = re.findall(r"^> (.*)$", page, flags=re.MULTILINE)
    assert len(quotes) >= 25
    sentences = sentences_of_the_code()
    assert [quote for quote in quotes if quote not in sentences] == []


def test_the_figures_show_today_s_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    monkeypatch.setattr(sys, "argv", ["site_figures.py", "--check"])
    import site_figures  # type: ignore[import-not-found, unused-ignore]

    site_figures.main()  # exits where a figure is older than its results


def test_formulas_name_code_that_exists() -> None:
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    files = re.findall(r"`([a-z_/]+\.py)`", page)
    assert len(files) > 15
    assert [file for file in files if not (PACKAGE / file).is_file()] == []
