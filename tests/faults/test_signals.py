"""SIGTERM, Ctrl-C and second runs, as the tools meet them in processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from processes import Tool


def whole_epochs(samples: list[tuple[int, int]], epochs: int) -> None:
    """Each sample was used once in each epoch, whatever happened in between."""
    for epoch in range(epochs):
        used = sorted(value for e, value in samples if e == epoch)
        assert used == list(range(16)), f'epoch {epoch}: {used}'


def test_sigterm_for_the_whole_group_and_a_second_run(tmp_path: Path) -> None:
    """As a cluster does it: the workers of the data loader get the signal too."""
    tool = Tool(tmp_path, workers=2)
    first = tool.start()
    tool.wait_for(first, 22)  # within the second epoch
    second = tool.start()
    out = tool.output(second, timeout=240)
    assert second.returncode == 1
    assert f'is in use by process {first.pid} on' in out.splitlines()[-1]
    assert 'Traceback' not in out
    os.killpg(first.pid, signal.SIGTERM)
    out = tool.output(first)
    assert first.returncode == 143, out
    assert 'Traceback' not in out and 'The run ends after this step' in out
    done = tool.samples(0)
    (path,) = tool.work_dir.glob('iter_*.pth')
    assert path.name == f'iter_{len(done) // 2}.pth'  # the step was finished
    assert not (tool.work_dir / 'run.lock').exists()
    out, epochs = tool.finish()
    assert 'they are not read again' in out
    whole_epochs(tool.samples(0), epochs)
    assert not list(tool.work_dir.glob('iter_*'))


def test_ctrl_c(tmp_path: Path) -> None:
    tool = Tool(tmp_path)
    process = tool.start()
    tool.wait_for(process, 6)
    process.send_signal(signal.SIGINT)
    out = tool.output(process)
    assert process.returncode == 130, out
    assert 'Traceback' not in out
    _, epochs = tool.finish()
    whole_epochs(tool.samples(0), epochs)


def test_killed_process_leaves_a_lock_that_does_not_block(tmp_path: Path) -> None:
    tool = Tool(tmp_path)
    process = tool.start()
    tool.wait_for(process, 34)
    while not (tool.work_dir / 'epoch_2.pth').exists():  # a thread writes it
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert (tool.work_dir / 'run.lock').exists()
    saved = len(list(tool.work_dir.glob('epoch_*.pth')))
    out, _ = tool.finish()
    assert saved >= 2 and f'resumed epoch: {saved}, iter: {8 * saved}' in out
    assert not (tool.work_dir / 'run.lock').exists()


def test_two_processes_are_stopped_and_go_on_as_one(tmp_path: Path) -> None:
    """``dist_train.sh`` hands the signal on and ends with the usual code."""
    tool = Tool(tmp_path)
    process = tool.start(processes=2)
    tool.wait_for(process, 10)  # an epoch has 8 samples for each of two ranks
    process.send_signal(signal.SIGTERM)
    out = tool.output(process)
    assert process.returncode == 143, out
    first, second = tool.samples(0), tool.samples(1)
    assert len(first) == len(second)
    (path,) = tool.work_dir.glob('iter_*.pth')
    assert path.name == f'iter_{len(first) // 2}.pth'
    content = torch.load(path, weights_only=True)
    assert len(content['rng_states']) == content['data_state']['world_size'] == 2
    out, epochs = tool.finish()  # one process
    assert 'with 1 in the place of 2 processes: an iteration keeps its 4 samples' in out
    assert '4 a process, 2 pieces whose gradients add up' in out
    whole_epochs(tool.samples(0) + second, epochs)


def test_two_processes_go_on_as_two(tmp_path: Path) -> None:
    tool = Tool(tmp_path)
    process = tool.start(processes=2)
    tool.wait_for(process, 10)
    process.send_signal(signal.SIGINT)
    out = tool.output(process)
    assert process.returncode == 130, out
    out, epochs = tool.finish(processes=2)
    assert 'An optimizer step takes' not in out
    whole_epochs(tool.samples(0) + tool.samples(1), epochs)
