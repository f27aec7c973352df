"""Runs the cases of ``interrupt_cases.py``, which fork, in a process without the threads that other tests left."""

import subprocess
import sys
from pathlib import Path


def test_signals_end_commands_quietly() -> None:
    cases = Path(__file__).with_name("interrupt_cases.py")
    arguments = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(cases)]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=cases.parents[2], timeout=300)
    assert result.returncode == 0, result.stdout
    assert "8 passed" in result.stdout or "........" in result.stdout
