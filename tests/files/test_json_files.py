"""JSON is read within bounds of size, depth and number of values."""

import json
import os
from pathlib import Path

import pytest

from bertsurgeon.files import (
    MAX_DEPTH,
    MAX_VALUES,
    DamagedFileError,
    check_depth,
    parse_json,
    parse_rows,
    read_json,
    special_file,
)
from bertsurgeon.files.json_files import MAX_BYTES, MAX_ROW_DEPTH

WRONG = {
    b"[": "it is not JSON",
    b"": "it is not JSON",
    b"\xff": "it is not UTF-8",
    b"[]": "it holds no object",
    b'{"a": 1, "b": 2, "a": 3}': "the key 'a' is there twice",
    b"9" * 5000: "too many digits",
    b"[" * 100_000: "inside each other",
    b"[" + b"," * MAX_VALUES + b"]": "more than",
}


@pytest.mark.parametrize(("content", "words"), WRONG.items(), ids=WRONG.values())
def test_what_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(DamagedFileError, match=words) as error:
        parse_json(content)
    assert "\n" not in str(error.value)


def test_the_bounds_are_exact(tmp_path: Path) -> None:
    deepest = json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    check_depth(deepest)
    with pytest.raises(DamagedFileError):
        check_depth([[deepest]])
    row = "[" * MAX_ROW_DEPTH + "]" * MAX_ROW_DEPTH
    assert parse_rows(row) is not None
    with pytest.raises(DamagedFileError):
        parse_rows(f"[[{row}]]")
    file = tmp_path / "file.json"
    file.write_bytes(b'"' + b"x" * (MAX_BYTES - 2) + b'"')
    assert len(read_json(file, None)) == MAX_BYTES - 2
    with file.open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(DamagedFileError, match="larger than 32 MB"):
        read_json(file, None)


def test_parts_that_occur_often_count_each_time() -> None:
    value: list[object] = [0]
    for _ in range(40):
        value = [value, value]
    with pytest.raises(DamagedFileError, match="values"):
        check_depth(value)
    value.append(value)
    with pytest.raises(DamagedFileError):
        check_depth(value)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent")


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("absent")
    (tmp_path / "file").touch()
    assert special_file([tmp_path / "file", tmp_path / "absent"]) is None
    assert special_file([tmp_path / "file", tmp_path / "link"]) == tmp_path / "link"
    with pytest.raises(DamagedFileError, match="no regular file"):
        read_json(tmp_path / "pipe")
