"""Asked to stop, a run finishes its step, saves, and goes on later from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from toy_run import Score, assert_same_run, make_runner, weights

from mergevq_mm.engine.hooks import PreemptionHook
from mergevq_mm.engine.hooks import preemption_hook as module

ALL = module._ASKED + module._WARNED
HOOK_TYPES = ('RunStateHook', 'PreemptionHook')


def hooks(*more: Any) -> list:
    return [*(dict(type=f'mergevq_mm.{name}') for name in HOOK_TYPES), *more]


class Send(Hook):
    """Sends signals to this process while iteration ``at`` is done."""

    def __init__(self, at: int, *numbers: int) -> None:
        self.at = at
        self.numbers = numbers or (signal.SIGTERM,)

    def before_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, pytest gets its signals back."""
    before = {n: signal.getsignal(n) for n in module._numbers(ALL)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth*'))


# An epoch has four batches: in the middle of one, at its end, in the first one.
@pytest.mark.parametrize(
    ('by_epoch', 'at'), [(True, 6), (True, 8), (True, 1), (False, 6), (False, 4)]
)
def test_stopped_run_equals_one_that_was_not(
    tmp_path: Path, by_epoch: bool, at: int
) -> None:
    length = 3 if by_epoch else 12
    interval = dict(checkpoint=dict(interval=1 if by_epoch else 5))
    whole = make_runner(tmp_path / 'whole', length, by_epoch, **interval)
    whole.train()
    stopped = make_runner(
        tmp_path / 'parts',
        length,
        by_epoch,
        custom_hooks=hooks(Send(at)),
        **interval,
    )
    with pytest.raises(SystemExit) as caught:
        stopped.train()
    assert caught.value.code == 128 + signal.SIGTERM == 143
    assert stopped.model.seen == whole.model.seen[:at]  # the step was finished
    path = tmp_path / 'parts' / f'iter_{at}.pth'
    assert (tmp_path / 'parts' / 'last_checkpoint').read_text() == str(path)
    assert torch.load(path, weights_only=True)['meta']['iter'] == at
    torch.manual_seed(99)
    resumed = make_runner(
        tmp_path / 'parts',
        length,
        by_epoch,
        custom_hooks=hooks(),
        resume=True,
        **interval,
    )
    resumed.train()
    assert resumed.model.seen == whole.model.seen[at:]  # nothing twice, nothing lost
    assert_same_run(whole, resumed)
    if by_epoch:  # the file between two regular ones is gone
        expected = [f'epoch_{i}.pth' for i in (1, 2, 3)]
        assert files(tmp_path / 'parts') == expected


def test_stopped_twice_in_one_epoch(tmp_path: Path) -> None:
    whole = make_runner(tmp_path / 'whole', 2)
    whole.train()
    seen = []
    for at in (2, 3, None):
        sender = [] if at is None else [Send(at)]
        run = make_runner(
            tmp_path / 'parts', 2, custom_hooks=hooks(*sender), resume=at != 2
        )
        if at is None:
            run.train()
        else:
            with pytest.raises(SystemExit):
                run.train()
        seen += run.model.seen
    assert seen == whole.model.seen
    assert_same_run(whole, run)


def test_ctrl_c_and_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    # The terminal and the launcher both send it.
    sender = Send(2, signal.SIGINT, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        make_runner(tmp_path, custom_hooks=hooks(sender)).train()
    assert caught.value.code == 128 + signal.SIGINT == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    make_runner(tmp_path, 1, custom_hooks=hooks(), resume=True).train()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGHUP'])
def test_warnings_of_schedulers_and_terminals(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    signal.signal(number, signal.SIG_DFL)  # not as under nohup
    with pytest.raises(SystemExit) as caught:
        make_runner(tmp_path, custom_hooks=hooks(Send(2, number))).train()
    assert caught.value.code == 128 + number
    assert files(tmp_path) == ['iter_2.pth']


def test_who_handles_a_warning_already_keeps_it(tmp_path: Path) -> None:
    """nohup ignores SIGHUP, launchers begin anew on SIGUSR1."""
    heard = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    sender = Send(2, signal.SIGHUP, signal.SIGUSR1)
    make_runner(tmp_path, 1, custom_hooks=hooks(sender)).train()
    assert files(tmp_path) == ['epoch_1.pth'] and heard == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def _worker(queue: Any) -> None:
    module._in_own_group(None, 0)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        os.kill(os.getpid(), number)
    queue.put(os.getpgid(0) == os.getpid())


def test_warnings_are_not_for_data_workers() -> None:
    context = mp.get_context('fork')
    queue = context.Queue()
    worker = context.Process(target=_worker, args=(queue,))
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == 0 and queue.get(timeout=60)


def test_who_insists_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_INSIST_AFTER', -1.0)
    sender = Send(2, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, custom_hooks=hooks(sender)).train()
    assert files(tmp_path) == []


class SignalledScore(Score):
    """Is validated when the signal comes."""

    armed = False

    def process(self, *args: Any) -> None:
        super().process(*args)
        if self.armed:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize('interval', [1, 9])
def test_in_a_validation(tmp_path: Path, interval: int) -> None:
    """With the average in the model, with and without a checkpoint of the epoch."""

    def runner(name: str, armed: bool, resume: bool = False) -> Any:
        score = SignalledScore()
        score.armed = armed
        run = make_runner(
            tmp_path / name,
            3,
            val_evaluator=[score],
            custom_hooks=hooks(EMAHook(momentum=0.5)),
            checkpoint=dict(interval=interval),
            resume=resume,
        )
        return run

    whole = runner('whole', False)
    whole.train()
    stopped = runner('parts', True)
    with pytest.raises(SystemExit):
        stopped.train()
    assert len(stopped.model.seen) == 4
    name = 'epoch_1.pth' if interval == 1 else 'iter_4.pth'
    assert files(tmp_path / 'parts') == [name]
    resumed = runner('parts', False, resume=True)
    resumed.train()
    assert resumed.model.seen == whole.model.seen[4:]
    assert torch.equal(weights(whole), weights(resumed))
    averages = [
        hook.ema_model.state_dict()
        for run in (whole, resumed)
        for hook in run.hooks
        if isinstance(hook, EMAHook)
    ]
    for key, value in averages[0].items():
        assert torch.equal(value, averages[1][key]), key


def test_with_the_stock_checkpoint_hook(tmp_path: Path) -> None:
    options = dict(checkpoint=dict(type='CheckpointHook'))
    whole = make_runner(tmp_path / 'whole', 2, **options)
    whole.train()
    stopped = make_runner(tmp_path / 'parts', 2, custom_hooks=hooks(Send(6)), **options)
    with pytest.raises(SystemExit):
        stopped.train()
    resumed = make_runner(
        tmp_path / 'parts', 2, custom_hooks=hooks(), resume=True, **options
    )
    resumed.train()
    assert_same_run(whole, resumed)


def _rank(rank: int, folder: Path, queue: mp.Queue) -> None:
    torch.set_num_threads(1)
    store = f'file://{folder / "store"}'
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
    sender = [Send(3)] if rank == 1 else []  # only one of them is told
    run = make_runner(folder / 'run', 4, custom_hooks=hooks(*sender))
    try:
        run.train()
    except SystemExit as stop:
        queue.put((rank, stop.code, run.iter))
    dist.destroy_process_group()


def test_all_ranks_stop_after_the_same_step(tmp_path: Path) -> None:
    context = mp.get_context('fork')
    queue = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, tmp_path, queue)) for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    found = sorted(queue.get(timeout=200) for _ in ranks)
    for process in ranks:
        process.join(timeout=60)
    assert found == [(0, 143, 2), (1, 143, 2)]  # the third iteration is done
    content = torch.load(tmp_path / 'run' / 'iter_3.pth', weights_only=True)
    assert len(content['rng_states']) == 2
    state = content['data_state']
    # Two batches of two samples make an epoch of a rank; one of the second is done.
    assert (state['world_size'], state['batches'], state['batch_size']) == (2, 1, 2)
    assert content['meta']['epoch'] == 1


def test_arguments_and_name() -> None:
    with pytest.raises(ValueError, match='interval=0 is not positive'):
        PreemptionHook(interval=0)
    hook = HOOKS.build(dict(type='mergevq_mm.PreemptionHook', interval=3))
    assert hook.interval == 3 and hook.priority == 'LOWEST'
