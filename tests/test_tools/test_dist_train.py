"""tools/dist_train.sh hands signals on, and ends with the code of the one that came."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'dist_train.sh'
LAUNCHER = """#!/usr/bin/env bash
trap 'echo asked to stop; exit 9' TERM
echo started
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1', 'SIGHUP'])
def test_the_launcher_is_asked_to_stop(name: str, tmp_path: Path) -> None:
    launcher, number = tmp_path / 'python', getattr(signal, name)
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    process = subprocess.Popen(
        ['bash', str(TOOL), 'config.py', '2'],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHON': str(launcher)},
        # Whoever runs the tests under nohup ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout.readline() == 'started\n'
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ('asked to stop\n', 128 + number)
