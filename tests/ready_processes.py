"""Processes for tests that have imported the stack already.

A Python that imports torch, mmpretrain and mmagic needs seconds for it, two ranks on
two cores twice that. A server imports them once for each process of pytest; what is
started here is forked from it, with nothing that a test has left.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
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
    *command: str | Path, cwd: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """``subprocess.run`` of a Python file, in a process that is ready.

    Variables that are read while the stack is imported come too late here.

    Args:
        command (str | Path): Python file and its arguments.
        cwd (str | Path): Working directory.
        env (Mapping, optional): All variables. Defaults to those of this process.

    Returns:
        subprocess.CompletedProcess: With ``stdout`` and ``stderr`` as text.
    """
    words = [str(word) for word in command]
    variables = dict(os.environ if env is None else env)
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder, name) for name in ('out', 'err'))
        process = ready_context().Process(
            target=_run_file, args=(words, str(cwd), variables, str(out), str(err))
        )
        process.start()
        process.join()
        texts = [file.read_text() if file.exists() else '' for file in (out, err)]
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _run_file(
    words: list[str], cwd: str, variables: dict[str, str], out: str, err: str
) -> None:
    """What ``python FILE ARGUMENTS`` does once the stack is there."""
    for stream, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    folders = [p for p in variables.get('PYTHONPATH', '').split(os.pathsep) if p]
    sys.path[:0] = [str(Path(words[0]).resolve().parent), *folders]
    sys.argv = words
    torch.set_num_threads(int(variables.get('OMP_NUM_THREADS', 1)))
    runpy.run_path(words[0], run_name='__main__')
