"""Processes for tests that have imported the stack already.

A Python that imports torch, mmpretrain and mmagic needs seconds for it, two ranks on
two cores twice that. A server imports them once for each process of pytest; what is
started here is forked from it, with nothing that a test has left.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch

IMPORTED = (
    'mergevq_mm',
    'torchvision',
    'mmpretrain.models',
    'mmpretrain.datasets',
    'mmagic.models',
    'mergevq_mm.models',
    'mergevq_mm.datasets',
    'mergevq_mm.engine',
    'mergevq_mm.engine.hooks',
    'mergevq_mm.evaluation',
    'mergevq_mm.visualization',
)


def ready_context() -> ForkServerContext:
    """Context of ``multiprocessing`` whose processes have ``IMPORTED``."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(IMPORTED))
    return context


def run_ranks(
    worker: Callable, args: Sequence[Any] = (), nprocs: int = 2, join: bool = True
) -> Any:
    """``torch.multiprocessing.spawn`` with processes that are ready."""
    ready_context()
    return torch.multiprocessing.start_processes(
        worker, tuple(args), nprocs, join, start_method='forkserver'
    )


def run_tool(
    *command: str | Path,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    ranks: int = 1,
) -> subprocess.CompletedProcess:
    """``subprocess.run`` of a Python file or module, in a process that is ready.

    Variables that are read while the stack is imported come too late here.

    Args:
        command (str | Path): What Python is given: a file or ``-m`` and a module, and
            its arguments.
        cwd (str | Path): Working directory.
        env (Mapping, optional): All variables. Defaults to those of this process.
        ranks (int): Processes with the variables that torchrun gives. Defaults to 1.

    Returns:
        subprocess.CompletedProcess: With ``stdout`` and ``stderr`` of all as text, and
        the worst exit code.
    """
    words = [str(word) for word in command]
    shared = dict(os.environ if env is None else env)
    if ranks > 1:
        port = str(free_port())
        shared |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        shared |= dict(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    with tempfile.TemporaryDirectory() as folder:
        files, processes = [], []
        for rank in range(ranks):
            own = {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}
            variables = own if ranks > 1 else shared
            files.append([Path(folder, f'{name}_{rank}') for name in ('out', 'err')])
            args = (words, str(cwd), variables, *map(str, files[-1]))
            processes.append(ready_context().Process(target=_run_file, args=args))
            processes[-1].start()
        for process in processes:
            process.join()
        texts = [
            ''.join(file.read_text() for file in column if file.exists())
            for column in zip(*files)
        ]
    code = max((process.exitcode for process in processes), key=abs)
    return subprocess.CompletedProcess(words, code, *texts)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _run_file(
    words: list[str], cwd: str, variables: dict[str, str], out: str, err: str
) -> None:
    """What ``python FILE ARGUMENTS`` does once the stack is there."""
    gc.freeze()  # mmengine collects garbage for each data set, half a second with it
    for stream, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    folders = [p for p in variables.get('PYTHONPATH', '').split(os.pathsep) if p]
    module = words[0] == '-m'
    sys.path[:0] = [cwd if module else str(Path(words[0]).resolve().parent), *folders]
    sys.argv = words[module:]
    torch.set_num_threads(int(variables.get('OMP_NUM_THREADS', 1)))
    try:
        if module:
            runpy.run_module(words[1], run_name='__main__', alter_sys=True)
        else:
            runpy.run_path(words[0], run_name='__main__')
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves by os._exit
