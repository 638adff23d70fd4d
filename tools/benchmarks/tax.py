"""What the runner and its hooks cost, against a plain loop over the same model.

    python tools/benchmarks/tax.py configs/quickstart/mergevq_g+r_mnist5k.py

Both train from the same weights on the same batches with the same random numbers. They
take turns, a step each, so that whatever else the machine does slows both; a ratio is
the median over the steps. Memory is that of two processes, one for each way, which do
nothing else. A save is measured in the same run: how long training stops, and how long
it would with the writing.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)
from mergevq_mm.engine.hooks import SafeCheckpointHook
from mergevq_mm.engine.quiet_runner import QuietRunner
from mergevq_mm.engine.random_state import get_rng_state, set_rng_state
from mergevq_mm.engine.training import prepare_training
from mergevq_mm.models.selfsup.two_sided import frozen
from mergevq_mm.utils import config as config_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import MIB, add_arguments, positive, run_main, start, synchronize
from reporting import Report

Clock = tuple[float, float]  # wall and processor seconds


def plain_loop(
    model: nn.Module,
    loader: DataLoader,
    optimizers: dict[str, torch.optim.Optimizer],
    schedules: list,
    clip: dict[str, float],
    momentum: float,
) -> Iterator[float]:
    """What one would write without a runner; gives the loss of each step."""
    generator, discriminator = optimizers['generator'], optimizers.get('discriminator')
    sides = {
        side: [p for group in optimizer.param_groups for p in group['params']]
        for side, optimizer in optimizers.items()
    }
    average = [p.detach().clone() for p in sides['generator']]
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            data = model.data_preprocessor(batch, training=True)
            with frozen(model.discriminator):
                losses, outputs = model.generator_losses(
                    data['inputs'], data['data_samples']
                )
            loss, log = model.parse_losses(losses)
            totals: dict[str, Tensor] = {'generator': loss}
            if discriminator is not None and outputs:
                losses = model.discriminator_losses(outputs)
                totals['discriminator'] = model.parse_losses(losses)[0]
            for side, total in totals.items():
                total.backward()
                if side in clip:
                    nn.utils.clip_grad_norm_(sides[side], clip[side])
                optimizers[side].step()
                optimizers[side].zero_grad()
                if optimizers[side] is generator:
                    model.after_generator_step()
            torch._foreach_lerp_(
                average, [p.detach() for p in sides['generator']], momentum
            )
            for schedule in schedules:
                if not schedule.by_epoch:
                    schedule.step()
            yield loss.item()
        for schedule in schedules:
            if schedule.by_epoch:
                schedule.step()
        epoch += 1


def read_config(path: str, folder: str, steps: int, batch: int) -> Config:
    """A config with all hooks of a training, for epochs of so many steps."""
    cfg = config_utils.load_config(path)
    config_utils.set_work_dir(cfg, folder, path)
    config_utils.disable_validation(cfg)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = batch or cfg.train_dataloader.batch_size
    cfg.train_dataloader.dataset.indices = steps * cfg.train_dataloader.batch_size
    config_utils.complete_dataloaders(cfg)
    config_utils.adapt_to_device(cfg)
    config_utils.complete_hooks(cfg)
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1)
    cfg.randomness = dict(seed=0)
    cfg.train_cfg.max_epochs = 2
    cfg.log_level = 'ERROR'
    return cfg


def build(cfg: Config, name: str) -> Runner:
    """A runner that is ready to train."""
    cfg.experiment_name = f'tax-{name}-{os.getpid()}'
    runner = QuietRunner.from_cfg(cfg)
    prepare_training(runner)
    return runner


def plain_from(runner: Runner) -> tuple[nn.Module, Iterator[float]]:
    """The plain loop over the parts of a runner that does not train itself."""
    wrappers = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper = wrappers
    built = runner.build_param_scheduler(runner.param_schedulers)
    schedules = sum(built.values(), [])
    if any(wrapper._accumulative_counts > 1 for wrapper in wrappers.values()):
        raise ValueError('config: the plain loop knows no accumulative_counts above 1.')
    clip = {
        name: wrapper.clip_grad_kwargs['max_norm']
        for name, wrapper in wrappers.items()
        if wrapper.clip_grad_kwargs
    }
    optimizers = {name: wrapper.optimizer for name, wrapper in wrappers.items()}
    hooks = [hook for hook in runner.hooks if hasattr(hook, 'ema_cfg')]
    momentum = hooks[0].ema_cfg['momentum'] if hooks else 0.001
    model, loader = runner.model, runner.train_loop.dataloader
    model.train()
    return model, plain_loop(model, loader, optimizers, schedules, clip, momentum)


def now() -> Clock:
    """Read both clocks."""
    return time.perf_counter(), time.process_time()


class Turns:
    """The runner's data loader, which lets the plain loop make each step, too.

    Args:
        loader (DataLoader): The runner's.
        source (nn.Module): The runner's model, whose first weights both start from.
        model (nn.Module): That of the plain loop.
        plain (Iterator[float]): The plain loop.
        device (torch.device): Where both compute.
    """

    def __init__(
        self,
        loader: DataLoader,
        source: nn.Module,
        model: nn.Module,
        plain: Iterator[float],
        device: torch.device,
    ) -> None:
        self.loader, self.source, self.model = loader, source, model
        self.plain, self.device = plain, device
        self.losses: list[float] = []
        self.times: list[tuple[Clock, Clock]] = []
        self._state: dict | None = None

    def __iter__(self) -> Iterator[Any]:
        """Give the runner its batches, and the plain loop its turns."""
        if self._state is None:
            self._state = get_rng_state()
            self.model.load_state_dict(self.source.state_dict())
        batches = iter(self.loader)
        while True:
            begin = now()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch
            synchronize(self.device)
            ours = _since(begin)
            state = get_rng_state()
            set_rng_state(self._state)
            begin = now()
            self.losses.append(next(self.plain))
            synchronize(self.device)
            self.times.append((ours, _since(begin)))
            self._state = get_rng_state()
            set_rng_state(state)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        """Have what the loader has."""
        if name == 'loader':
            raise AttributeError(name)
        return getattr(self.loader, name)


def _since(begin: Clock) -> Clock:
    wall, cpu = now()
    return wall - begin[0], cpu - begin[1]


class Losses(Hook):
    """Keeps the losses of a runner."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Keep one."""
        self.losses.append(outputs['loss'].item())


class Saves:
    """Times the saves of a hook, with the writing and without.

    Args:
        hook (SafeCheckpointHook): Changed in place.
    """

    def __init__(self, hook: SafeCheckpointHook) -> None:
        self.stops: list[float] = []
        self.whole: list[float] = []
        self.sizes: list[int] = []
        save = hook._save_checkpoint_with_step

        def timed(*args: Any, **kwargs: Any) -> None:
            begin = time.perf_counter()
            save(*args, **kwargs)
            self.stops.append(time.perf_counter() - begin)
            hook.settle()
            self.whole.append(time.perf_counter() - begin)
            self.sizes.append(os.path.getsize(hook.last_ckpt))

        hook._save_checkpoint_with_step = timed


def take_turns(args: argparse.Namespace, device: torch.device) -> tuple:
    """Train in turn; times of each step, losses of both ways, and the saves."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = read_config(args.config, folder, args.steps, args.batch_size)
        model, plain = plain_from(build(cfg.copy(), 'plain'))
        runner, record = build(cfg, 'runner'), Losses()
        hooks = [h for h in runner.hooks if isinstance(h, SafeCheckpointHook)]
        saves = Saves(hooks[0])
        runner.register_hook(record, 'LOWEST')
        loop = runner.train_loop
        loop.dataloader = Turns(loop.dataloader, runner.model, model, plain, device)
        runner.train()
        turns = loop.dataloader
        return turns.times, record.losses, turns.losses, saves


def peak_of(work: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that a process of its own holds while it does a work."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            if device.type == 'cuda':
                peak = torch.cuda.max_memory_allocated(device)
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(writer, str(peak).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    if os.waitpid(pid, 0)[1] or not answer:
        raise ValueError('a process that measures memory has failed, see above.')
    return int(answer)


@contextmanager
def without_saves(cfg: Config) -> Iterator[Config]:
    """A config for one epoch, whose file does not count."""
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.train_cfg.max_epochs = 1
    yield cfg


def run_alone(args: argparse.Namespace, kind: str) -> None:
    """Train one epoch in one of the two ways."""
    with tempfile.TemporaryDirectory() as folder:
        config = read_config(args.config, folder, args.memory_steps, args.batch_size)
        with without_saves(config) as cfg:
            runner = build(cfg, kind)
            if kind == 'runner':
                runner.train()
            else:
                plain = plain_from(runner)[1]
                for _ in range(args.memory_steps):
                    next(plain)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config of MergeVQ, such as the quickstart')
    parser.add_argument(
        '--steps', type=positive, default=40, help='steps of each of two epochs'
    )
    parser.add_argument('--memory-steps', type=positive, default=5)
    parser.add_argument('--batch-size', type=int, default=0, help='default: of config')
    add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    # mmengine's schedules do not see the steps of the plain loop.
    warnings.filterwarnings('ignore', message='Detected call of `scheduler.step')
    peaks = {}
    device = torch.device(args.device)
    for kind in ('runner', 'plain'):  # forked before a GPU is touched
        peaks[kind] = peak_of(lambda kind=kind: run_alone(args, kind), device)
    device = start(args)
    times, losses, plain_losses, saves = take_turns(args, device)
    times = times[min(3, len(times) // 2) :]  # the first steps make workspaces
    report = Report(
        f'Runner and plain loop, {Path(args.config).name}, {len(times)} steps each',
        {
            'way': 'way',
            'wall': 'step (ms)|.1f',
            'cpu': 'processor (ms)|.1f',
            'peak': 'memory (MiB)|.1f',
        },
        args,
        device,
    )
    for i, kind in enumerate(('runner', 'plain')):
        wall, cpu = (median(turn[i][j] for turn in times) for j in (0, 1))
        peak = peaks[kind] / MIB
        report.add(way=kind, wall=1000 * wall, cpu=1000 * cpu, peak=peak)
    ratios = [median(a[j] / b[j] for a, b in times) - 1 for j in (0, 1)]
    memory = peaks['runner'] / peaks['plain'] - 1
    apart = max(abs(a - b) for a, b in zip(losses, plain_losses, strict=True))
    stop, whole, size = (median(x) for x in (saves.stops, saves.whole, saves.sizes))
    report.note(
        f'the runner takes {ratios[0]:+.1%} time, {ratios[1]:+.1%} processor time and '
        f'{memory:+.2%} memory; the losses differ by at most {apart:.1e}.'
    )
    report.note(
        f'a save of {size / MIB:.1f} MiB stops training for {1000 * stop:.0f} ms '
        f'({stop / size * 2**30:.2f} s a GiB), with its writing it takes '
        f'{1000 * whole:.0f} ms.'
    )
    report.show(time=ratios, memory=memory, apart=apart, stop=stop, size=size)
    return 0


if __name__ == '__main__':
    run_main(main)
