"""Short forms of the drills (``make drills``): a few kills, and disks that refuse one call after the other."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bertsurgeon.checkpoint import lock_outputs, new_folder, new_work_folder, write_report
from bertsurgeon.errors import CheckpointError
from bertsurgeon.storage import find_failure

sys.path.insert(0, str(Path(__file__).parents[2] / "drills"))

import anomalies
import bench
import kills

ERRORS = ("ENOSPC", "EIO", "EACCES")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy models and data of the drills."""
    folder = tmp_path_factory.mktemp("drill")
    bench.warm_up(exports=False)
    bench.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("command", "fraction"), [("calibrate", 0.5), ("calibrate", 0.8), ("calibrate", 0.93), ("finetune", 0.75)]
)
def test_kills(command: str, fraction: float, folder: Path, references: dict[str, Any]) -> None:
    if command not in references:
        references[command] = kills.Reference(folder, command)
    result = kills.kill(folder, command, references[command], fraction, replaces=fraction != 0.5)
    assert not kills.is_fault(result), result


def test_a_command_on_a_bad_disk(folder: Path) -> None:
    result = anomalies.loop(folder, "calibrate", "open", "ENOSPC", step=12, limit=3)
    assert result["faults"] == []
    assert result["errors"] >= 1


def test_a_training_on_a_full_disk_goes_on(folder: Path, references: dict[str, Any]) -> None:
    """The disk is full when the second checkpoint is written; with --resume the training ends with the same bits."""
    reference = references.get("finetune") or kills.Reference(folder, "finetune")

    def fill_disk() -> None:
        def refuse(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and "checkpoint-4" in str(arguments[0]) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        sys.addaudithook(refuse)

    bench.clear(folder, None)
    ended = bench.run(folder, bench.arguments_of("finetune"), before=fill_disk)
    assert ended.code == 2
    assert anomalies.one_sentence(ended.text)
    assert "the disk is full (" in ended.text
    assert "Pass --resume to continue the training." in ended.text
    assert [path.name for path in (folder / "place" / "out.training").glob("checkpoint-*")] == ["checkpoint-2"]
    ended = bench.run(folder, bench.arguments_of("finetune", "--resume"))
    assert ended.code == 0, ended.text
    assert bench.stable(folder / "place" / "out") == reference.new
    assert bench.leftovers(folder, "finetune") == []


def test_the_judge_of_anomalies(folder: Path) -> None:
    """A drill that finds nothing proves something only if it can find something."""
    bench.clear(folder, None)
    (folder / "place" / "out").mkdir()
    (folder / "place" / "out" / "report.json").write_text('{"a"')
    (folder / "temporary" / "copy").touch()
    old: dict[str, str] = {"config.json": "0"}
    ended = bench.Ended(1, "Traceback (most recent call last)\n", 0.0)
    faults = anomalies.judge(folder, "calibrate", ended, old, {})
    words = ("exit code 1", "neither the old folder nor the new one", "no sentence", "left temporary/copy")
    assert len(faults) == len(words)
    assert all(fault.startswith(word) for fault, word in zip(faults, words, strict=True))
    (folder / "place" / "out" / "report.json").unlink()
    assert anomalies.judge(folder, "calibrate", bench.Ended(0, "", 0.0), old, {"a": 1})[0].startswith("success, but")


def write_output(place: Path) -> None:
    """Everything that is done with folders: an output, a work folder, and a report that is added."""
    with lock_outputs(place / "out"):
        new_work_folder(place / "out.training")
        with new_folder(place / "out", overwrite=True) as folder:
            (folder / "1_Pooling").mkdir()
            for name in ("config.json", "1_Pooling/config.json"):
                (folder / name).write_text("new")
        write_report(place / "out" / "report.json", {"a": 1})


def run_with_fault(place: Path, call: str, number: int, error: str) -> tuple[int, bool]:
    """Runs it in a fork with a fault; returns 2 for our error, 0 for success, and whether the fault was hit."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            fault = anomalies.Fault(call, number, error, place)
            fault.install()
            try:
                write_output(place)
                code = 0
            except CheckpointError as refused:
                is_told = "\n" not in str(refused) and find_failure(refused) is not None
                code = 2 if is_told and "cannot be" in str(refused) else 71
                os.write(2, f"{refused}\n".encode())
            fault.is_active = False
            code += 100 * (fault.count >= number)
        finally:
            os._exit(code)
    hit, code = divmod(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 100)
    return code, bool(hit)


@pytest.mark.parametrize("call", anomalies.CALLS)
def test_folders_on_a_bad_disk(call: str, tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        place = tmp_path / str(number)
        with new_folder(place / "out") as folder:
            (folder / "old").write_text("old")
        before = bench.exact(place / "out")
        code, is_hit = run_with_fault(place, call, number, ERRORS[number % 3])
        after = bench.exact(place / "out")
        assert after is not None
        names = {path.name for path in place.iterdir()}
        assert names <= {"out", "out.training"}, (number, names)
        assert code in (0, 2), (number, code)
        if after != before:
            assert set(after) - {"report.json"} == {"bertsurgeon_folder.json", "config.json", "1_Pooling/config.json"}
            record = json.loads((place / "out" / "bertsurgeon_folder.json").read_text())
            assert set(after) - set(record["files"]) == {"bertsurgeon_folder.json"}
        assert code == 2 or "report.json" in after
        if not is_hit:
            break
    assert number > 1


def test_the_tables_of_the_docs_are_those_of_the_drills() -> None:
    script = Path(bench.ROOT) / "drills" / "make_docs.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
