"""Shared by all tests: the package first, one thread, seeds, markers."""

from __future__ import annotations

import gc
import logging
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
# On a busy machine threads that spin while they wait slow small tensors 100 times.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.device import utils as mmengine_device
from mmengine.logging import MessageHub, MMLogger
from mmengine.utils import ManagerMixin
from quick_runs import spare

import mergevq_mm  # noqa: F401  (before any test imports torchvision or mmagic)
from mergevq_mm.engine.work_dir_lock import _HELD

MARK = 'PYTEST_CURRENT_TEST'  # pytest's own
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason='needs a CUDA device')
    for item in items:
        if 'gpu' in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Spare the collector all that is imported: mmengine calls it for each data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def quick_runs() -> Iterator[None]:
    """Spare runs what no test looks at."""
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        yield


@pytest.fixture(autouse=True)
def a_cpu_alone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, tools and processes of a test take no GPU, unless it is marked ``gpu``."""
    if 'gpu' not in request.keywords:
        monkeypatch.setattr(mmengine_device, 'DEVICE', 'cpu')
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')


@pytest.fixture(autouse=True)
def seeded() -> Iterator[int]:
    """Start each test from the same seed of python, numpy and torch."""
    seed = 0
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield seed


def named(kind: type = ManagerMixin) -> Iterator[OrderedDict]:
    """What mmengine keeps by name in this process: loggers, scopes, hubs, visualizers.

    Which of them was made last, and whether there are loggers of runs, decides much.
    """
    for one in kind.__subclasses__():
        yield one._instance_dict
        yield from named(one)


@contextmanager
def forgotten() -> Iterator[None]:
    """Take back the instances that are made meanwhile."""
    before = [(instances, instances.copy()) for instances in named()]
    yield
    for instances in named():
        instances.clear()
    for instances, kept in before:
        instances.update(kept)


@pytest.fixture(scope='module', autouse=True)
def instances_of_a_file() -> Iterator[None]:
    """Forget what fixtures of other files have made."""
    with forgotten():
        yield


@pytest.fixture(scope='module', autouse=True)
def compiled_code() -> Iterator[None]:
    """Let dynamo forget the graphs of other files: of a function it makes eight."""
    yield
    if 'torch._dynamo' in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(autouse=True)
def instances_of_a_test() -> Iterator[None]:
    """Forget what other tests have made; hide the hubs: K is drawn by an iteration."""
    with forgotten():
        MessageHub._instance_dict.clear()
        yield


@pytest.fixture(autouse=True)
def variables() -> Iterator[None]:
    """Take back variables that tools set for their process, such as LOCAL_RANK.

    Those of gradio name a folder that the process has made once.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        if not name.startswith('GRADIO_'):
            del os.environ[name]
    os.environ.update({**before, MARK: os.environ[MARK]})


@pytest.fixture(autouse=True)
def open_log_files() -> Iterator[None]:
    """Forget log files that a web server's logging set-up has closed.

    mmengine writes to the stream of each of its logger's files, which is None then.
    """
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and handler.stream is None:
                logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def work_dir_locks() -> Iterator[None]:
    """Release the locks that runs of a test hold until their process ends."""
    yield
    for lock in list(_HELD.values()):
        lock.release()


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    """Tell which test leaves gradients off; the next ones would fail without them."""
    yield
    was = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert was, 'this test has switched gradients off for those behind it'
