"""Progress where no bar can be drawn: plain lines of long steps, and silence of short ones."""

from collections.abc import Callable

import pytest

from bertsurgeon import progress
from bertsurgeon.workflows.pipeline import _note_time_left


class Clock:
    """Time that passes only when a test lets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(progress, "clock", fake)
    monkeypatch.setattr(progress, "_enabled", True)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    return fake


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    def read() -> list[str]:
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    return read


def walk(clock: Clock, seconds: float, total: int | None, count: int = 0) -> None:
    with progress.bar("Calibrating", total) as advance:
        for _ in range(total or count):
            clock.now += seconds
            advance()


def test_a_short_step_prints_nothing(clock: Clock, lines: Callable[[], list[str]]) -> None:
    walk(clock, 0.1, 40)
    assert lines() == []


def test_a_long_step_prints_a_line_now_and_then(clock: Clock, lines: Callable[[], list[str]]) -> None:
    walk(clock, 1.0, 100)
    assert lines() == [
        "Calibrating: 5 % (5 of 100), about 1 min 35 s left",
        "Calibrating: 35 % (35 of 100), about 1 min 5 s left",
        "Calibrating: 65 % (65 of 100), about 35 s left",
        "Calibrating: 95 % (95 of 100), about 5 s left",
        "Calibrating: done in 1 min 40 s",
    ]


def test_an_unknown_total(clock: Clock, lines: Callable[[], list[str]]) -> None:
    walk(clock, 6.0, None, count=2)
    assert lines() == ["Calibrating: 1 done, 6 s so far", "Calibrating: done in 12 s"]


def test_a_resumed_step_is_timed_from_where_it_goes_on(clock: Clock, lines: Callable[[], list[str]]) -> None:
    with progress.bar("Training", 1000) as advance:
        clock.now += 1
        advance(900)
        clock.now += 10
        advance()
    assert lines() == ["Training: 90 % (901 of 1,000), about 16 min 30 s left"]  # an interrupted one is not done


def test_a_step_that_fails_is_not_done(clock: Clock, lines: Callable[[], list[str]]) -> None:
    def fail(clock: Clock) -> None:
        with progress.bar("Training", None):
            clock.now += 60
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail(clock)
    assert lines() == []


def test_colors_in_a_log_do_not_make_it_a_terminal(
    clock: Clock, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    walk(clock, 6.0, 2)
    assert len(lines()) == 2


def test_nothing_in_the_library(clock: Clock, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_enabled", False)
    walk(clock, 60.0, 10)
    progress.note_once("Read")
    assert lines() == []


def test_steps_number_the_bars(clock: Clock, lines: Callable[[], list[str]]) -> None:
    with progress.steps(2) as begin:
        begin()
        walk(clock, 6.0, 1)
        with progress.steps(9) as inner:
            inner()
            walk(clock, 6.0, 1)
        begin()
        walk(clock, 6.0, 1)
    walk(clock, 6.0, 1)
    labels = [line.partition(":")[0] for line in lines() if "done" in line]
    assert labels == ["[1/2] Calibrating", "[1/9] Calibrating", "[2/2] Calibrating", "Calibrating"]


def test_a_note_is_printed_once(clock: Clock, lines: Callable[[], list[str]]) -> None:
    for _ in range(2):
        progress.note_once("Read 3 rows of once.csv.")
    assert lines() == ["Read 3 rows of once.csv."]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (3785, "1 h 3 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_the_time_left_for_more_models(clock: Clock, lines: Callable[[], list[str]]) -> None:
    for done in (1, 2, 3):
        _note_time_left(60.0 * done, done, 3)
    assert lines() == [
        "1 of 3 models pruned, about 2 min left.",
        "2 of 3 models pruned, about 1 min left.",
    ]
