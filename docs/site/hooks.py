"""Hooks of the documentation site (mkdocs.yml): pages made from files of the repository, and links to its other files.

Pages are written to be read in the repository as well, so they link to files outside ``docs``. Here such a link leads
to the page made from that file, or to a copy of the file in the site.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "drills/README.md": "drills.md",
    "experiments/README.md": "experiments.md",
}
"""Pages made from files outside ``docs``, by the path of the file in the repository."""

ALIASES = {"README.md": "docs/index.md", "examples": "docs/gallery.md"}
"""Files and folders of the repository whose content another page has."""

CODE = re.compile(r"^<!-- code: (\S+) -->$", re.MULTILINE)
"""Marks a place where the site shows a script; in the repository, a link beside it leads there."""

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Removes pages from the navigation whose file this copy of the repository does not have."""
    missing = {page for source, page in PAGES.items() if not (ROOT / source).is_file()}
    config.nav = _without(config.nav, missing)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages made from other files, and copies of the files that pages link to."""
    sources = {path: ROOT / path for path in PAGES if (ROOT / path).is_file()}
    for path, file in sources.items():
        files.append(File.generated(config, PAGES[path], content=file.read_text(encoding="utf-8")))
    sources |= {f"docs/{file.src_uri}": ROOT / "docs" / file.src_uri for file in files if file.is_documentation_page()}
    linked = {
        path
        for source, file in sources.items()
        if file.is_file()
        for _, target, _ in LINK.findall(file.read_text(encoding="utf-8"))
        for path in [_path(target, source)]
    }
    for path in sorted(linked):
        if _is_copied(path):
            files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links that leave ``docs``, and inserts scripts."""
    source = next((path for path, uri in PAGES.items() if uri == page.file.src_uri), f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match[str]) -> str:
        start, target, anchor = match[1], match[2], match[3] or ""
        path = _path(target, source)
        path = ALIASES.get(path, path)
        if path in PAGES:
            uri = PAGES[path]
        elif path.startswith("docs/"):
            uri = path.removeprefix("docs/")
        elif _is_copied(path):
            uri = f"files/{path}"
        else:  # a folder: named, but there is no page to lead to
            return f"{start}#"
        return f"{start}{relpath(uri, str(PurePosixPath(page.file.src_uri).parent))}{anchor}"

    linked = re.sub(r"\[([^\]]*)\]\(#\)", r"\1", LINK.sub(rewrite, markdown))
    return CODE.sub(lambda match: f"```python\n{(ROOT / match[1]).read_text(encoding='utf-8')}```", linked)


def _path(target: str, source: str) -> str:
    """The path in the repository that a relative link of a file leads to."""
    return normpath(str(PurePosixPath(source).parent / target))


def _is_copied(path: str) -> bool:
    outside = path not in PAGES and path not in ALIASES and not path.startswith(("docs/", ".."))
    return outside and (ROOT / path).is_file()


def _without(nav: Any, missing: set[str]) -> Any:
    if isinstance(nav, list):
        entries = [_without(entry, missing) for entry in nav]
        return [entry for entry in entries if entry not in (None, {}, [])]
    if isinstance(nav, dict):
        return {title: entry for title, each in nav.items() if (entry := _without(each, missing)) is not None}
    return None if nav in missing else nav
