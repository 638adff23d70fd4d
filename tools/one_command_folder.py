"""The folder of a one-command training: whose it is, and what it was begun with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from one_command_clock import SECONDS

from mergevq_mm.utils.fileio import write_atomically

if TYPE_CHECKING:
    from one_command import Plan

PARTS = ('classifier', 'codes')
BEGUN = '.begun.json'  # data, tokenizer and seed of the run


def check(work_dir: Path, plan: Plan) -> None:
    """Refuse a folder that a run may not write into; what it holds is left alone.

    Args:
        work_dir (Path): Folder of the run; it is made if it is missing.
        plan (Plan): Whose.

    Raises:
        ValueError: If it cannot be written, belongs to something else or to a run that
            has not ended.
    """
    from mergevq_mm.engine.work_dir_lock import check_free
    from mergevq_mm.utils.config import check_work_dir

    mark = work_dir / plan.mark
    if work_dir.is_dir() and any(work_dir.iterdir()) and not mark.is_file():
        raise ValueError(
            f'work-dir="{work_dir}" holds files of something else; give a folder that '
            f'is new, empty or of an earlier {plan.name}.'
        )
    check_work_dir(str(work_dir))
    check_free(work_dir)


def begin(
    work_dir: Path, plan: Plan, begun: Mapping[str, object], resume: bool = False
) -> None:
    """Make a folder that of a run, and remove what an earlier one left.

    Its parts belong to its tokenizer.

    Args:
        work_dir (Path): Folder of the run.
        plan (Plan): Whose.
        begun (Mapping[str, object]): What the run is of, by name; it goes on with
            nothing else.
        resume (bool): Whether to go on with what is there: nothing is removed. Defaults
            to False.

    Raises:
        ValueError: See :func:`check`; or if what is there was begun with other things.
    """
    check(work_dir, plan)
    if resume:
        _check_same(work_dir, begun)
    else:
        for name in (*PARTS, *plan.generators):
            shutil.rmtree(work_dir / name, ignore_errors=True)
        files = ('*.pth', 'last_checkpoint', 'summary.json', SECONDS, *plan.pictures)
        for path in (path for name in files for path in work_dir.glob(name)):
            path.unlink()
    (work_dir / plan.mark).write_text(
        f'Files of tools/{plan.name}.py, which it replaces when run again.\n'
    )
    write_atomically(json.dumps(begun).encode(), work_dir / BEGUN)


def _check_same(work_dir: Path, begun: Mapping[str, object]) -> None:
    """Refuse to go on with what was begun with other things."""
    if not (work_dir / 'last_checkpoint').is_file():
        return  # nothing to go on with
    try:
        before = dict(json.loads((work_dir / BEGUN).read_text()))
    except (OSError, ValueError):
        before = {}
    other = [name for name in begun if before.get(name, '') != begun[name]]
    if other:
        was = ', '.join(f'{name}={before.get(name, "unknown")}' for name in other)
        now = ', '.join(f'{name}={begun[name]}' for name in other)
        raise ValueError(
            f'work-dir="{work_dir}" was begun with {was}, not with {now}: --resume '
            'with the same as then, give another folder, or leave --resume away, and '
            'what is there is replaced.'
        )


def keep_reconstructions(work_dir: Path) -> None:
    """Copy the reconstructions of the last evaluation beside the other pictures."""
    found = list(work_dir.rglob('reconstruction_test.png'))
    if found:
        newest = max(found, key=lambda path: path.stat().st_mtime)
        shutil.copy(newest, work_dir / 'reconstructions.png')
