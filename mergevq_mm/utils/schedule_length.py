"""For how long a training the schedules of a config were written."""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.config import Config
from mmengine.logging import print_log

# Keys of a schedule that count epochs or iterations of the training.
COUNTS = ('begin', 'end', 'milestones', 'T_max', 'step_size', 'total_steps', 'periods')


def training_length(cfg: Mapping[str, Any]) -> tuple[str, int] | None:
    """How long a config trains.

    Args:
        cfg (Mapping): The config.

    Returns:
        tuple[str, int] | None: 'max_epochs' or 'max_iters' and their number; None
        where it trains nothing.
    """
    loop = cfg.get('train_cfg') or {}
    for name in ('max_iters', 'max_epochs'):
        if loop.get(name) is not None:
            return name, int(loop[name])
    return None


def each_schedule(schedulers: Any) -> Iterable[dict[str, Any]]:
    """List the configs of schedules: of one, a list, or lists by optimizer.

    Args:
        schedulers (Any): ``param_scheduler`` of a config.

    Yields:
        dict[str, Any]: Each schedule; those that are built already are passed over.
    """
    if isinstance(schedulers, Mapping):
        if 'type' in schedulers:
            yield schedulers
            return
        schedulers = schedulers.values()
    elif not isinstance(schedulers, (list, tuple)):
        return
    for item in schedulers:
        yield from each_schedule(item)


def last_count(schedule: Mapping[str, Any]) -> int:
    """The farthest epoch or iteration that a schedule names; 0 if none."""
    found = [0]
    for name in COUNTS:
        value = schedule.get(name)
        if value is not None:
            found += value if isinstance(value, (list, tuple)) else [value]
    return max(found)


def _goes_beyond(cfg: Mapping[str, Any], length: tuple[str, int]) -> bool:
    """Whether a schedule names something behind the end of the training.

    Iterations of a training that counts epochs are not known here.
    """
    name, number = length
    return any(
        last_count(schedule) > number
        for schedule in each_schedule(cfg.get('param_scheduler'))
        if schedule.get('by_epoch', True) == (name == 'max_epochs')
    )


def schedule_ratio(
    path: str | os.PathLike,
    own: Config,
    used: Config,
    options: Mapping[str, Any] | None = None,
) -> float:
    """By what a config's schedules have to be stretched to follow the training.

    They belong to the length that their file gives. A config that inherits schedules
    which end behind its own training takes the length of the file that they are from.

    Args:
        path (str | PathLike): The config file.
        own (Config): Its content.
        used (Config): The same with the settings of the command line.
        options (Mapping[str, Any], optional): These settings; where they set schedules
            themselves, the ratio is 1. Defaults to None.

    Returns:
        float: Below 1 where the training is shorter than that of the schedules.
    """
    given = any(key.split('.')[0] == 'param_scheduler' for key in options or {})
    before, now = training_length(own), training_length(used)
    if given or before is None or now is None:
        return 1.0
    if _goes_beyond(own, before):
        origin = _origin(Path(path))
        before = origin and training_length(Config.fromfile(origin))
    if not before or before[0] != now[0] or before[1] < 1:
        return 1.0
    return now[1] / before[1]


def stretch_start(
    cfg: Config, ratio: float, options: Mapping[str, Any] | None = None
) -> None:
    """Let the discriminator start at the same share of another length.

    Args:
        cfg (Config): With a model that may have ``discriminator_start``, an iteration;
            changed in place, with a message.
        ratio (float): Of :func:`schedule_ratio`.
        options (Mapping[str, Any], optional): Settings of the command line, which stay.
            Defaults to None.
    """
    key = 'model.discriminator_start'
    start = (cfg.get('model') or {}).get('discriminator_start')
    if ratio == 1.0 or not start or key in (options or {}):
        return
    cfg.model.discriminator_start = round(start * ratio)
    print_log(
        f'{key}={start} follows the length of the training: '
        f'{cfg.model.discriminator_start}.',
        logger='current',
        level=logging.WARNING,
    )


def _origin(path: Path) -> Path | None:
    """The file that sets ``param_scheduler``, this one or one that it builds on."""
    if path.suffix == '.py':
        body = ast.parse(path.read_text(encoding='utf-8')).body
        assigned = [node for node in body if isinstance(node, ast.Assign)]
        targets = [target for node in assigned for target in node.targets]
        names = {getattr(target, 'id', '') for target in targets}
    else:
        names = set(fileio.load(path))
    if 'param_scheduler' in names:
        return path
    for base in Config._get_base_files(str(path)):
        file, _ = Config._get_cfg_path(base, str(path))
        found = _origin(Path(file))
        if found is not None:
            return found
    return None
