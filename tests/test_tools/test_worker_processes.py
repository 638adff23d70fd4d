"""Workers end with the process that has begun them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'
SCRIPT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
sys.path.insert(0, sys.argv[1])
from worker_processes import leave_with_parent

def work():
    print(os.getpid(), flush=True)
    time.sleep(120)

if __name__ == '__main__':
    leave_with_parent()  # the first process has none, and goes on
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, context, initializer=leave_with_parent) as pool:
        pool.submit(work)
        pool.submit(work)
"""


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked does not."""
    try:
        os.kill(pid, 0)
        state = Path(f'/proc/{pid}/stat')
        return (
            not state.is_file() or state.read_text().rsplit(')', 1)[1].split()[0] != 'Z'
        )
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(FOLDER)]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert is_there(worker)
    parent.send_signal(how)
    parent.wait()
    end = time.monotonic() + 60
    while is_there(worker) and time.monotonic() < end:
        time.sleep(0.05)
    left = is_there(worker)
    if left:
        os.kill(worker, signal.SIGKILL)
    assert not left
