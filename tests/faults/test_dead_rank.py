"""A rank that dies ends the others, and the last line says which one and why."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPT = """
import logging, os, signal, sys, time
import torch
from torch import distributed
from mergevq_mm.utils.last_line import follow, last_words

with last_words():
    distributed.init_process_group('gloo')
    rank, logger = distributed.get_rank(), logging.getLogger('run')
    logger.setLevel('INFO')
    logger.propagate = False
    follow(logger)
    for step in range(10_000):
        logger.info(f'step {step} of rank {rank}')
        if (rank, step) == (2, 7):
            if sys.argv[1] == 'raise':
                raise ValueError('the images are gone')
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.all_reduce(torch.ones(1))
"""


@pytest.mark.parametrize('how', ['kill', 'raise'])
def test_a_dead_rank_is_named(tmp_path: Path, how: str) -> None:
    script = tmp_path / 'script.py'
    script.write_text(SCRIPT)
    start = time.monotonic()
    port = str(20000 + os.getpid() % 20000)
    done = subprocess.run(
        [
            sys.executable,
            str(REPO / 'tools' / 'launch.py'),
            '--nproc_per_node=4',
            f'--master_port={port}',
            str(script),
            how,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)},
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    if how == 'kill':
        words, line = 'was ended by SIGKILL', 'step 7 of rank 2'
    else:
        words, line = 'has ended with exit code 1', 'ValueError: the images are gone'
    both = f'{words}, and the others were stopped; its last line: {line}'
    assert last == f'error: rank 2 of 4 {both}'
    assert time.monotonic() - start < 60 or os.getloadavg()[0] > os.cpu_count()
