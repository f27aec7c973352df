"""Readers of retrieval collections: BEIR's folder layout, and the SMART files of the Cranfield collection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertsurgeon import progress
from bertsurgeon.errors import DataError, OptionError, first_line
from bertsurgeon.files import parse_rows
from bertsurgeon.tasks.raw_files import read_lines, stream_lines
from bertsurgeon.tasks.retrieval.collection import MAX_GRADE, Collection, Judgement

CORPUS, QUERIES, JUDGEMENTS = "corpus.jsonl", "queries.jsonl", "qrels"
"""Files and folder of BEIR's layout; files may be compressed (``.gz``)."""

DEFAULT_SPLIT = "test"

SMART_DOCUMENTS, SMART_QUERIES, SMART_JUDGEMENTS = "cran.all.1400", "cran.qry", "cranqrel"
"""Files of the Cranfield collection (Cleverdon, 1967)."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
"""Integers without the underscores, other digits and thousands of digits that ``int`` accepts or refuses."""

_NUMBER_OR_EMPTY = re.compile(r"|[+-]?\.?\d.*|[+-]?(nan|inf|infinity)", re.IGNORECASE)
"""Third cells of a first line that are grades, though maybe bad ones, and no name of a column."""

CRANFIELD_GRADES = {1: 4, 2: 3, 3: 2, 4: 1, 5: 0, -1: 0}
"""Grades by Cranfield's codes, of which 1 is a complete answer, 4 of minimum interest, and −1 and 5 not relevant."""


def read_collection(folder: str | Path, split: str | None = None) -> Collection:
    """Reads a collection, in BEIR's layout or of the Cranfield files, whichever is in the folder.

    Args:
        folder: The folder.
        split: Name of the file of judgements in BEIR's ``qrels``; None for ``test``, or the only one.

    Raises:
        DataError: If there is no collection, or a file is broken.
        OptionError: If a split is named and the collection has none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"The folder {folder} does not exist; name the folder of a retrieval collection.")
    if _find(folder, CORPUS) is not None:
        collection = _read_beir(folder, split)
    elif (folder / SMART_DOCUMENTS).is_file():
        if split is not None:
            raise OptionError(f"--split names judgements of BEIR's layout; {folder} holds the Cranfield files.")
        collection = _read_cranfield(folder)
    else:
        raise DataError(
            f"{folder} holds no retrieval collection; expected {CORPUS}, {QUERIES} and {JUDGEMENTS}/*.tsv (BEIR's "
            f"layout), or {SMART_DOCUMENTS}, {SMART_QUERIES} and {SMART_JUDGEMENTS}."
        )
    progress.note_once(f"Read {collection.name}: {collection.summary}.")
    return collection


def collection_files(folder: Path, split: str | None = None) -> list[Path]:
    """Returns the files that :func:`read_collection` reads; those of a collection that is incomplete are left out."""
    if (folder / SMART_DOCUMENTS).is_file() and _find(folder, CORPUS) is None:
        files = [folder / name for name in (SMART_DOCUMENTS, SMART_QUERIES, SMART_JUDGEMENTS)]
        return [file for file in files if file.is_file()]
    texts = [path for name in (CORPUS, QUERIES) if (path := _find(folder, name)) is not None]
    return [*texts, _find_judgements(folder / JUDGEMENTS, split)] if texts else []


# BEIR (Thakur et al., 2021, arXiv 2104.08663)


def _read_beir(folder: Path, split: str | None) -> Collection:
    corpus, queries = _find(folder, CORPUS), _find(folder, QUERIES)
    if corpus is None or queries is None:
        raise DataError(f"{folder} has no {QUERIES} beside {CORPUS}; copy it there.")
    judgements = _find_judgements(folder / JUDGEMENTS, split)
    documents, titles = _read_texts(corpus, "title")
    return Collection.from_parts(
        f"{folder.resolve().name} ({_split_of(judgements)})",
        documents,
        _read_texts(queries, None)[0],
        _read_qrels(judgements),
        titles,
    )


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _split_of(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".tsv")


def _find_judgements(folder: Path, split: str | None) -> Path:
    files = {_split_of(path): path for pattern in ("*.tsv", "*.tsv.gz") for path in sorted(folder.glob(pattern))}
    if not files:
        raise DataError(f"{folder} holds no judgements; expected a file such as {DEFAULT_SPLIT}.tsv.")
    if split is None and len(files) == 1:
        return next(iter(files.values()))
    if split is None and DEFAULT_SPLIT not in files:
        raise DataError(f"{folder} holds {', '.join(files)}, and no {DEFAULT_SPLIT}; name one of them with --split.")
    if split is not None and split not in files:
        raise DataError(f"{folder} has no judgements {split!r}; choose one of {', '.join(files)}.")
    return files[split or DEFAULT_SPLIT]


def _read_texts(path: Path, title: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the texts of a file of BEIR by id; titles come before their texts, as in BEIR.

    Args:
        path: The file.
        title: Key of the titles; None if there are none.

    Returns:
        The texts, and the titles that are not empty.

    Raises:
        DataError: If a line is no object with ``_id`` and ``text``, or an id has two texts.
    """
    texts: dict[str, str] = {}
    titles: dict[str, str] = {}
    repeated = 0
    for number, line in stream_lines(path):
        if not line.strip():
            continue
        try:
            row = parse_rows(line)
        except ValueError as error:
            raise DataError(f"Line {number} of {path} is no JSON object ({first_line(error)}).") from error
        name = _id(row, path, number)
        parts = [row.get(title) if title else None, row.get("text")]
        if not isinstance(parts[1], str) or not isinstance(parts[0], str | None):
            raise DataError(f"Line {number} of {path} has no text; every row needs the strings _id and text.")
        text = " ".join(part for part in parts if part).strip()
        if texts.setdefault(name, text) != text:
            raise DataError(f"{path} holds two texts with the id {name!r}, the second in line {number}; rename one.")
        if parts[0]:
            titles[name] = parts[0]
        repeated += 1
    if repeated > len(texts):
        progress.note_once(f"Rows of {path.name} that are repeated and count once: {repeated - len(texts):,}.")
    return texts, titles


def _id(row: Any, path: Path, number: int) -> str:
    """Returns the id of a row, without spaces around it, as ids of judgements are read."""
    name = row.get("_id") if isinstance(row, dict) else None
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise DataError(f"Line {number} of {path} has no _id; every row needs the strings _id and text.")
    return str(name).strip()


def _read_qrels(path: Path) -> Iterator[Judgement]:
    """Yields the judgements of a file of BEIR: query, document and grade, separated by tabs.

    The first line that is not blank is a header if its third cell is a word, neither empty nor a number.

    Raises:
        DataError: If a line has other columns, or a grade is no integer from -``MAX_GRADE`` to ``MAX_GRADE``.
    """
    is_first = True
    for number, line in stream_lines(path):
        if not line.strip():
            continue
        may_be_header, is_first = is_first, False
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 3:
            raise DataError(
                f"Line {number} of {path} has {len(cells)} columns, not 3; expected query, document and grade, "
                "separated by tabs."
            )
        grade = _integer(cells[2])
        if grade is None and may_be_header and not _NUMBER_OR_EMPTY.fullmatch(cells[2]):
            continue
        if grade is None or abs(grade) > MAX_GRADE:
            raise DataError(
                f"Line {number} of {path} has the grade {cells[2]!r:.40}, which is no integer from -{MAX_GRADE} to "
                f"{MAX_GRADE}; correct it."
            )
        yield Judgement(cells[0], cells[1], grade)


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


# the SMART files of Cranfield


def _read_cranfield(folder: Path) -> Collection:
    for name in (SMART_QUERIES, SMART_JUDGEMENTS):
        if not (folder / name).is_file():
            raise DataError(f"{folder} has no {name} beside {SMART_DOCUMENTS}; copy it there.")
    documents = {}
    for name, fields in _read_smart(folder / SMART_DOCUMENTS):
        title, text = (" ".join(fields.get(field, "").split()) for field in ("T", "W"))
        if name in documents:
            raise DataError(f"{folder / SMART_DOCUMENTS} holds the document {name} twice; leave one of them.")
        documents[name] = text if text.startswith(title) else f"{title} {text}".strip()
    queries = {
        str(number): " ".join(fields.get("W", "").split())
        for number, (_, fields) in enumerate(_read_smart(folder / SMART_QUERIES), 1)
    }
    progress.note_once(
        f"Queries of {SMART_QUERIES} have their place in the file as id, which the judgements name; grades are 4 for a "
        "complete answer (code 1) to 1 for minimum interest (code 4)."
    )
    return Collection.from_parts("cranfield", documents, queries, _read_cranfield_grades(folder / SMART_JUDGEMENTS))


def _read_smart(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the number of each entry (``.I``) and its fields (``.T``, ``.W``, …) by letter.

    Raises:
        DataError: If there are no entries, or text stands before the first one.
    """
    name: str | None = None
    fields: dict[str, str] = {}
    field: str | None = None
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith(".I"):
            if name is not None:
                yield name, fields
            name, fields, field = line[2:].strip(), {}, None
            if not name:
                raise DataError(f"Line {number} of {path} begins an entry without a number.")
        elif len(line.rstrip()) == 2 and line[0] == "." and line[1].isupper():
            field = line[1]
        elif line.strip():
            if name is None or field is None:
                raise DataError(
                    f"Line {number} of {path} belongs to no field; the file must begin with .I and a number."
                )
            fields[field] = f"{fields.get(field, '')} {line}"
    if name is None:
        raise DataError(f"{path} holds no entries; the file must begin with .I and a number.")
    yield name, fields


def _read_cranfield_grades(path: Path) -> Iterator[Judgement]:
    """Yields the judgements of ``cranqrel``.

    Raises:
        DataError: If a line does not hold a query, a document and one of the codes of ``CRANFIELD_GRADES``.
    """
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split()
        if not cells:
            continue
        code = _integer(cells[2]) if len(cells) == 3 else None
        if code not in CRANFIELD_GRADES:
            codes = ", ".join(map(str, CRANFIELD_GRADES))
            raise DataError(f"Line {number} of {path} must hold a query, a document and a code ({codes}).")
        yield Judgement(cells[0], cells[1], CRANFIELD_GRADES[code])
