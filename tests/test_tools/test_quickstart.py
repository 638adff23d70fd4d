"""What the quickstart judges and replaces; CI runs the whole of it, shortened."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / 'tools'))

import one_command_folder as folders  # noqa: E402
import quickstart  # noqa: E402

BEGUN = {'seed': 0}

SUMMARY = {
    'reconstruction': {'K16': {'psnr': 22.5}, 'K64': {'psnr': 26.0}},
    'probe': {'encoder': 96.0, 'random_encoder': 80.0, 'pixels': 90.0},
    'generation': {
        'classifier': 97.5,
        'compressed': {'consistency': 91.0, 'frechet': 150.0},
        'full': {'consistency': 92.0},
        'distinct': {'consistency': 93.0, 'frechet': 180.0},
        'random': {'consistency': 94.0, 'frechet': 185.0},
    },
    'seconds': {'total': 1000.0},
}


def test_all_bars_reached():
    assert quickstart.shortfalls(SUMMARY) == []


@pytest.mark.parametrize(
    'path, value, text',
    [
        (('reconstruction', 'K16', 'psnr'), 21.9, 'PSNR at K=16'),
        (('reconstruction', 'K64', 'psnr'), 24.9, 'PSNR at K=64'),
        (('probe', 'encoder'), 89.0, 'probe above'),
        (('generation', 'classifier'), 96.9, 'judge'),
        (('generation', 'full', 'consistency'), 89.9, 'class consistency'),
        (('generation', 'full', 'consistency'), 93.5, 'caches'),
        (('generation', 'distinct', 'consistency'), 89.9, 'few passes'),
        (('generation', 'random', 'consistency'), 89.9, 'few passes'),
        (('generation', 'random', 'frechet'), 188.0, 'Fréchet'),
        (('seconds', 'total'), 1201.0, '20 minutes'),
    ],
)
def test_a_bar_missed(path: tuple[str, ...], value: float, text: str):
    summary = copy.deepcopy(SUMMARY)
    place = summary
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    missed = quickstart.shortfalls(summary)
    assert len(missed) == 1 and text in missed[0]


def test_few_passes_may_be_left_out():
    summary = copy.deepcopy(SUMMARY)
    for mode in ('distinct', 'random'):
        del summary['generation'][mode]
    assert quickstart.shortfalls(summary) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    checkpoint = tmp_path / 'epoch_270.pth'
    checkpoint.write_bytes(b'days of work')
    with pytest.raises(ValueError, match='holds files of something else'):
        folders.begin(tmp_path, quickstart.PLAN, BEGUN)
    assert checkpoint.read_bytes() == b'days of work'


def test_an_earlier_quickstart_is_replaced(tmp_path: Path):
    folder = tmp_path / 'run'
    folders.begin(folder, quickstart.PLAN, BEGUN)
    (folder / 'codes').mkdir()
    (folder / 'epoch_18.pth').touch()
    (folder / 'notes.txt').touch()
    folders.begin(folder, quickstart.PLAN, BEGUN)
    names = {path.name for path in folder.iterdir()}
    assert names == {quickstart.PLAN.mark, folders.BEGUN, 'notes.txt'}


def test_short_runs_have_a_folder_of_their_own():
    assert quickstart.parse_args(['--short']).work_dir == 'work_dirs/quickstart_short'
    assert quickstart.parse_args([]).work_dir == 'work_dirs/quickstart'
