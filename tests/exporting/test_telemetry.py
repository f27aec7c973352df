"""OpenVINO and NNCF send nothing and leave nothing in the home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import socket, threading
connections = []
socket.socket.connect = lambda self, address: connections.append(address)
from bertsurgeon.runtime import require
openvino, nncf = require("openvino", "openvino"), require("nncf", "int8")
from nncf.telemetry.wrapper import telemetry
from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry
from openvino_telemetry import Telemetry
for one in (telemetry, init_ovc_telemetry()):
    one.start_session("test")
    one.send_event("category", "action", "label")
    one.end_session("test")
names = [thread.name for thread in threading.enumerate()]
print(Telemetry().consent, connections, [name for name in names if name.startswith("ThreadPool")])
"""


@pytest.mark.parametrize("consent", [None, "1"])
def test_nothing_is_sent_or_written(consent: str | None, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    file = tmp_path / "intel" / "openvino_telemetry"
    if consent is not None:
        file.parent.mkdir()
        file.write_text(consent)
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NNCF_CI", "NNCF_DEV")}
    environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False [] []"
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert not {name for name in written if "intel" in name} - {"intel/openvino_telemetry"}
    assert consent is None or file.read_text() == consent
