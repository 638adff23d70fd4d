"""The runner of the tools, quiet at its start, and the words around a training."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from .hooks.speed_hook import asks_channels_last, prepare

# What mmengine tells of itself whatever the run is. The first four have up to hundreds
# of lines.
_ROUTINE = (
    'Config:',
    'System environment:',
    'Hooks will be executed',
    'Name of parameter - Initialization information',
    'Add to optimizer ',
    'paramwise_options ',
    'Distributed training is not used',
    'Failed to search registry with scope "mmpretrain" in the "function"',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


def is_routine(record: logging.LogRecord) -> bool:
    """Whether a message is for the log file alone.

    Args:
        record (LogRecord): The message.

    Returns:
        bool: True for config, environment, hooks, initial weights and the parameters of
        an optimizer, and for notices that no user can act on.
    """
    text = record.getMessage().lstrip('\n-')
    return record.levelno <= logging.WARNING and text.startswith(_ROUTINE)


def hush(logger: logging.Logger) -> logging.Logger:
    """Keep what :func:`is_routine` from the terminal of a logger.

    Args:
        logger (Logger): Changed in place; its files get everything.

    Returns:
        Logger: The same one.
    """
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(_leave_out_routine)
    return logger


def _leave_out_routine(record: logging.LogRecord) -> bool:
    return not is_routine(record)


class QuietRunner(Runner):
    """mmengine's runner, with the routine of its start in the log file alone.

    Layouts are turned before the model is wrapped.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as always, with a quiet terminal."""
        return hush(super().build_logger(*args, **kwargs))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model; before, turn what a hook would turn afterwards.

        A wrapper of several processes lays out its buckets as it finds the weights.
        """
        if asks_channels_last(self.cfg):
            model = prepare(model, channels_last=True)
        return super().wrap_model(model_wrapper_cfg, model)


def opening_words(runner: Runner) -> str:
    """What is going to be trained, and where the details are.

    Args:
        runner (Runner): Before its training.

    Returns:
        str: A line.
    """
    loop = runner.train_loop
    log = _shown(os.path.join(runner.log_dir, f'{runner.timestamp}.log'))
    try:
        number = f'{len(loop.dataloader.dataset):,} samples, '
    except TypeError:  # a stream
        number = ''
    device = next(runner.model.parameters()).device
    return (
        f'{number}{loop.max_iters:,} iterations on {device}; config, environment and '
        f'hooks: {log}'
    )


def closing_words(cfg: Mapping[str, Any], config: str, checkpoint: str) -> str:
    """Where the weights are, and a command to try them with.

    Args:
        cfg (Mapping): What was trained.
        config (str): Path of a file with it.
        checkpoint (str): Path of the newest weights.

    Returns:
        str: A line, or two.
    """
    model = cfg.get('model') or {}
    commands = {
        'Try: mergevq reconstruct {} IMAGE --weights {}': (
            str(model.get('type')).endswith(('MergeVQ', 'MergeVQRefinement'))
        ),
        'Try: mergevq generate {} --weights {}': 'tokenizer' in model,
        'Test: python tools/test.py {} {}': cfg.get('test_cfg') is not None,
    }
    lines = [f'Weights: {checkpoint}']
    for command in [text for text, fits in commands.items() if fits][:1]:
        lines.append(command.format(shlex.quote(config), shlex.quote(checkpoint)))
    return '\n'.join(lines)


def say_goodbye(runner: Any) -> None:
    """Print :func:`closing_words` of a training that has ended.

    Args:
        runner (Runner): After its training. Where it has left no record of its last
            checkpoint, nothing is said.
    """
    record = os.path.join(runner.work_dir, 'last_checkpoint')
    if not is_main_process() or not os.path.isfile(record):
        return
    with open(record, encoding='utf-8') as file:
        checkpoint = file.read().strip()
    # The copy that the runner has made: with the options of the command line.
    config = os.path.join(runner.work_dir, os.path.basename(runner.cfg.filename))
    words = closing_words(runner.cfg, _shown(config), _shown(checkpoint))
    print(words, flush=True)


def _shown(path: str) -> str:
    """A path from here, if it lies below here."""
    inside = os.path.relpath(path)
    return path if inside.startswith(os.pardir) else inside
