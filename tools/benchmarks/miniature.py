"""The paper's Tables 1, 2, 4 and 5 in miniature: MergeVQ and baselines, one table.

G, G+R and R, mmpretrain's MAE, a plain VQ tokenizer, an untrained encoder, pixels and
the mean colour, on 5,000 digits, on crops of real photographs and, where it is asked
for, on emoji. All methods that are trained see the same number of images, but for those
named 4x; each seed starts from other weights, and on the photographs holds out other
scenes. Finished cells are kept: the same command goes on after a stop. Writes
``miniature.json`` and ``miniature.md``; a short run has a folder ``short`` to itself.

Examples:
    python tools/benchmarks/miniature.py --jobs 2
    python tools/benchmarks/miniature.py --data digits --methods G+R VQ --seeds 0
    python tools/benchmarks/miniature.py --data emoji --ablations-on emoji
    python tools/benchmarks/miniature.py --short
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from common import hardware, natural, run_main
from miniature_cell import run_cell
from miniature_setting import (
    ABLATIONS,
    CONFIG_OF,
    DATA,
    LONG,
    LONGER,
    METHODS,
    ROOT,
    Cell,
    Setting,
)
from miniature_table import markdown, orderings, orderings_markdown, summarise
from photographs import HELD_OUT, write_fold
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from worker_processes import leave_with_parent

TITLES = {'digits': 'Digits', 'photographs': 'Photographs', 'emoji': 'Emoji'}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--data',
        nargs='+',
        choices=DATA,
        default=['digits', 'photographs'],
        help='default: digits photographs; emoji needs requirements/emoji.txt',
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=list(CONFIG_OF),
        metavar='NAME',
        default=list(CONFIG_OF),
        help=f'of {", ".join(CONFIG_OF)} (default: all)',
    )
    parser.add_argument(
        '--ablations-on',
        nargs='*',
        choices=DATA,
        help='of --data, those of the ablations (default: digits)',
    )
    parser.add_argument(
        '--long-on',
        nargs='*',
        choices=DATA,
        default=['emoji'],
        help=f'data of the methods with {LONGER} times the steps (default: emoji)',
    )
    parser.add_argument('--seeds', nargs='+', type=natural, default=[0, 1, 2])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/miniature'))
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='cells at a time, one core each (default: 1)',
    )
    parser.add_argument(
        '--short',
        action='store_true',
        help='two epochs on a fiftieth of the images, to see that everything runs; '
        'in the folder short of --out',
    )
    parser.add_argument(
        '--table-only', action='store_true', help='tables of the cells that are there'
    )
    args = parser.parse_args(argv)
    if args.ablations_on is None:
        args.ablations_on = ['digits']
    elif without := set(args.ablations_on) - set(args.data):
        parser.error(
            f'--ablations-on names {", ".join(sorted(without))}, which --data does '
            f'not: add it there (now {" ".join(args.data)})'
        )
    return args


# ---------------------------------------------------------------------------- data


def prepare(args: argparse.Namespace) -> Setting:
    """Write digits, photographs, emoji and the teacher's targets, each once.

    Args:
        args (Namespace): The command line.

    Returns:
        Setting: Where they lie.
    """
    sys.path.insert(0, str(ROOT / 'tools'))
    os.chdir(ROOT)
    from emoji import data_root
    from one_command import run_tool
    from one_command_data import is_whole, version_of
    from quickstart import TARGETS, WEIGHTS, prepare_data

    digits, photographs = Path('data/mnist5k'), Path('data/photographs')
    emoji = data_root()
    targets = {str(digits): Path(TARGETS)}
    prepare_data()
    if 'emoji' in args.data:
        run_tool('tools/dataset_converters/emoji.py', '--out-dir', emoji)
        targets[str(emoji)] = emoji / 'efficientnet_lite0_stride16.safetensors'
        if not is_whole(targets[str(emoji)]):
            write_train_targets(emoji, targets[str(emoji)], WEIGHTS)
    for fold in sorted({seed % len(HELD_OUT) for seed in args.seeds}):
        if 'photographs' in args.data:
            root = write_fold(photographs, fold)
            targets[str(root)] = photographs / f'fold{fold}.safetensors'
            if not is_whole(targets[str(root)]):
                write_train_targets(root, targets[str(root)], WEIGHTS)
    short = {'epochs': 2, 'every': 50, 'neighbours': (10, 20)} if args.short else {}
    version = version_of(emoji) if 'emoji' in args.data else ''
    where = (args.out, digits, photographs, targets)
    return Setting(*where, emoji=emoji, version=version, **short)


def write_train_targets(root: Path, file: Path, weights: str) -> None:
    """Targets of training images; held-out ones do not shape their scale.

    Args:
        root (Path): The fold, or the data root.
        file (Path): To write.
        weights (str): The teacher's weights.
    """
    from mmengine.config import Config

    from mergevq_mm.models.target_generators import extract_targets
    from mergevq_mm.models.target_generators.stored_teacher import (
        read_targets,
        write_targets,
    )
    from mergevq_mm.registry import MODELS

    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / 'mergevq_g+r_mnist5k.py')
    cfg.teacher.network.init_cfg.checkpoint = weights
    extract_targets(MODELS.build(cfg.teacher), root / 'train', file)
    stored = read_targets(file)  # keys below train/; training asks for those below root
    write_targets(file, [f'train/{key}' for key in stored.keys], stored.targets)


# --------------------------------------------------------------------------- cells


def work(cell: Cell, setting: Setting) -> str | None:
    """Run one cell in a worker process, with its output in a log file.

    Args:
        cell (Cell): What to run.
        setting (Setting): Where the data lie.

    Returns:
        str, optional: What went wrong.
    """
    torch.set_num_threads(1)
    folder = cell.folder(setting.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f'--out: {folder} cannot be made ({error.strerror}); give another folder'
    with open(folder / 'log.txt', 'w') as log:
        kept = os.dup(1), os.dup(2)
        try:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            run_cell(cell, setting)
        except (Exception, SystemExit):  # a run that is told to stop exits
            traceback.print_exc(file=log)
            return f'{folder}/log.txt: {traceback.format_exc(limit=0).strip()}'
        finally:
            sys.stdout.flush()
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)
    return None


def plan(args: argparse.Namespace) -> list[Cell]:
    """The cells of a run: the table before the ablations, seed by seed.

    A run that is stopped early has whole tables of fewer seeds.

    Args:
        args (Namespace): The command line.

    Returns:
        list[Cell]: Ablations on the data of ``--ablations-on`` alone, longer trainings
        on that of ``--long-on``.
    """
    groups = (
        (METHODS, args.data),
        (ABLATIONS, args.ablations_on),
        (LONG, args.long_on),
    )
    return [
        Cell(data, method, seed)
        for group, where in groups
        for seed in args.seeds
        for data in args.data
        for method in args.methods
        if method in group and data in where
    ]


def run_all(cells: Sequence[Cell], setting: Setting, jobs: int) -> list[str]:
    """Run cells, several at a time, with a progress bar.

    Args:
        cells (Sequence[Cell]): Those that are not there yet.
        setting (Setting): Where the data lie.
        jobs (int): Processes.

    Returns:
        list[str]: What went wrong.
    """
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    context = multiprocessing.get_context('spawn')
    failed = []
    console = Console()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    bar = Progress(*columns, TimeElapsedColumn(), console=console)
    workers = ProcessPoolExecutor(jobs, context, initializer=leave_with_parent)
    with bar, workers as pool:
        task = bar.add_task('miniature', total=len(cells))
        futures = {pool.submit(work, cell, setting): cell for cell in cells}
        for done, future in enumerate(as_completed(futures), 1):
            cell, problem = futures[future], future.result()
            bar.advance(task)
            state = 'failed' if problem else 'done'
            text = f'{cell.data}, {cell.method}, seed {cell.seed}'
            console.print(f'{done}/{len(cells)} {text}: {state}', highlight=False)
            if problem:
                failed.append(problem)
    return failed


# -------------------------------------------------------------------------- tables


def collect(
    data: str, methods: Sequence[str], seeds: Sequence[int], out: Path
) -> dict[str, list[dict[str, Any]]]:
    """Results by method of those that have all seeds.

    Args:
        data (str): One of ``DATA``.
        methods (Sequence[str]): In the order of the table.
        seeds (Sequence[int]): Which.
        out (Path): Folder of the results.

    Returns:
        dict[str, list[dict]]: Method to the results of the seeds.
    """
    found = {}
    for method in methods:
        files = [Cell(data, method, s).folder(out) / 'result.json' for s in seeds]
        if all(file.is_file() for file in files):
            found[method] = [json.loads(file.read_text()) for file in files]
    return found


def tables(args: argparse.Namespace) -> str:
    """Write ``miniature.json`` and ``miniature.md``.

    Args:
        args (Namespace): The command line.

    Returns:
        str: The markdown; '' where no method has all of the seeds, and nothing is
        written.
    """
    content: dict[str, Any] = {
        'hardware': hardware(torch.device('cpu')),
        'seeds': args.seeds,
        'short': args.short,
    }
    parts = []
    for data in args.data:
        results = collect(data, args.methods, args.seeds, args.out)
        rows = {method: summarise(found) for method, found in results.items()}
        if not rows:
            continue
        versions = {r.get('version', '') for found in results.values() for r in found}
        if len(versions) > 1:
            raise ValueError(
                f'--out {args.out} holds results of {data} of several versions '
                f'({", ".join(sorted(versions))}); run without --table-only first.'
            )
        orders = orderings(rows)
        content[data] = {'rows': rows, 'orderings': orders, 'results': results}
        for ending, group in (
            ('', METHODS),
            (': ablations', ABLATIONS),
            (f': {LONGER} times the steps', LONG),
        ):
            chosen = {name: row for name, row in rows.items() if name in group}
            if chosen:
                title = f'{TITLES[data]}{ending}'
                parts.append(markdown(title, chosen, len(args.seeds)))
        parts.append(orderings_markdown(f'{TITLES[data]}: orderings', orders))
    if not parts:
        return ''
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'miniature.json').write_text(json.dumps(content, indent=2) + '\n')
    text = '\n'.join(parts)
    (args.out / 'miniature.md').write_text(text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    # Cells of a short run, and what it leaves when it is stopped, are none of a whole.
    args.out = args.out.absolute() / ('short' if args.short else '')
    failed = []
    if not args.table_only:
        cells = plan(args)
        if not cells:
            raise ValueError(
                f'--methods {", ".join(args.methods)} make no cell on --data '
                f'{" ".join(args.data)}: name the data in --ablations-on or --long-on.'
            )
        setting = prepare(args)
        todo = [cell for cell in cells if not setting.has(cell)]
        print(f'{len(cells) - len(todo)} of {len(cells)} cells are there already.')
        if todo:
            failed = run_all(todo, setting, max(args.jobs, 1))
    for problem in failed:
        print(f'failed: {problem}', file=sys.stderr)
    text = tables(args)
    if not text and args.table_only:
        raise ValueError(
            f'--out {args.out} holds no method with all of the seeds {args.seeds}; '
            'run without --table-only first.'
        )
    if not text:
        return 1
    print(text)
    print(f'written to {args.out / "miniature.md"} and miniature.json')
    return 1 if failed else 0


if __name__ == '__main__':
    run_main(main)
