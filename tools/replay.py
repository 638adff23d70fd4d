"""Repeat a training step whose loss or gradient was not finite, and name the cause.

A training writes such a step to ``bad_step_<n>.pt`` in its work dir (see
docs/reliability.md). Data, run and machine of the training are not needed; frozen
networks that the config loads from files are.

Examples:
    python tools/replay.py work_dirs/mergevq_g+r/bad_step_4217.pt
    python tools/replay.py bad_step_4217.pt --weights epoch_12.pth --device cuda
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

import mergevq_mm  # noqa: F401  (before torchvision and mmagic)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Repeat a step that was not finite')
    parser.add_argument('file', help='bad_step_<n>.pt of a work dir')
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument(
        '--weights', help='checkpoint, where the file has no room for the weights'
    )
    parser.add_argument(
        '--config', help="config whose model to build in the place of the file's"
    )
    return parser.parse_args(argv)


def build_model(record: Mapping[str, Any], config: str | None) -> Any:
    """The model of the run.

    Args:
        record (Mapping[str, Any]): The file.
        config (str, optional): Path of another config.

    Returns:
        BaseModel: With random weights.

    Raises:
        ValueError: If neither has a model.
    """
    from mergevq_mm.registry import MODELS

    cfg = record['config'] if config is None else Config.fromfile(config)
    if not cfg.get('model'):
        raise ValueError(
            'the run was not built from a config, so that the file cannot say which '
            'model it had; give --config.'
        )
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg['model'])


def complete_weights(record: dict[str, Any], given: str | None) -> str | None:
    """Fill in weights from a checkpoint, where they are needed or asked for.

    Args:
        record (dict[str, Any]): The file; changed in place.
        given (str, optional): Path of a checkpoint.

    Returns:
        str: Where they are from; None if the file has its own.

    Raises:
        ValueError: If there are none.
    """
    from mergevq_mm.utils.checkpoint_file import load_checkpoint_file

    if record['weights'] is not None and given is None:
        return None
    path = given or record['checkpoint']
    if path is None:
        raise ValueError(
            'the file has no weights, for they are larger than it may be, and there '
            'was no checkpoint yet; give --weights.'
        )
    record['weights'] = trained_weights(load_checkpoint_file(path))
    return path


def trained_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that a training goes on with, not their moving average.

    Args:
        checkpoint (Mapping[str, Any]): Of a run, or weights alone.

    Returns:
        dict[str, Any]: By name.
    """
    weights = dict(checkpoint.get('state_dict', checkpoint))
    for name, value in checkpoint.get('ema_state_dict', {}).items():
        if name.startswith('module.'):
            weights[name.removeprefix('module.')] = value
    return weights


def report(record: Mapping[str, Any], replayed: Any, source: str | None) -> str:
    """What the repetition has shown.

    Args:
        record (Mapping[str, Any]): The file.
        replayed (Replayed): The repetition.
        source (str, optional): Checkpoint that the weights are from.

    Returns:
        str: A few lines.
    """
    rank, world = record['process']
    batches = len(record['batches'])
    lines = [
        f'Iteration {record["iter"] + 1}, process {rank + 1} of {world}, '
        f'{batches} batch{"es" * (batches > 1)}, on {record["device"]} with torch '
        f'{record["torch"]}.'
    ]
    if source is not None:
        lines.append(f'Weights of {source}, not of the step itself.')
    for name, value in replayed.losses.items():
        then = record['losses'].get(name)
        lines.append(f'  {name}: {value:.9g}, in the run {then}')
    lines.append(replayed.cause())
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from mergevq_mm.engine.replay import read_record, replay

    try:
        record = read_record(args.file)
        model = build_model(record, args.config)
        source = complete_weights(record, args.weights)
        replayed = replay(record, model, args.device)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(report(record, replayed, source))
    sys.exit(not replayed.nonfinite)


if __name__ == '__main__':
    main()
