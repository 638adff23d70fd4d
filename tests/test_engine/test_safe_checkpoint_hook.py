"""Killed, damaged, rotated: there is always a checkpoint to go on from."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from ready_processes import run_tool
from toy_run import Score, assert_same_run, make_runner

from mergevq_mm.utils import atomic_backend, fileio


def files(folder):
    return sorted(p.name for p in folder.glob('*.pth*'))


def test_rotation_keeps_what_mmengine_keeps(tmp_path):
    options = dict(max_keep_ckpts=2, save_best='val/score', rule='greater')
    make_runner(tmp_path / 'ours', checkpoint=options).train()
    options['type'] = 'CheckpointHook'
    make_runner(tmp_path / 'stock', checkpoint=options).train()
    expected = ['best_val_score_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth']
    assert files(tmp_path / 'ours') == files(tmp_path / 'stock') == expected
    for name in expected:
        a, b = (
            torch.load(tmp_path / run / name, weights_only=True)['state_dict']
            for run in ('ours', 'stock')
        )
        assert all(torch.equal(a[key], b[key]) for key in a)
    record = (tmp_path / 'ours' / 'last_checkpoint').read_text()
    assert record == str(tmp_path / 'ours' / 'epoch_4.pth')


def test_old_file_goes_after_the_new_one_is_there(tmp_path, monkeypatch):
    events = []
    replace, remove = os.replace, os.remove
    monkeypatch.setattr(
        fileio.os, 'replace', lambda a, b: (events.append(Path(b).name), replace(a, b))
    )
    monkeypatch.setattr(
        fileio.os, 'remove', lambda a: (events.append('-' + Path(a).name), remove(a))
    )
    make_runner(tmp_path, epochs=2, checkpoint=dict(max_keep_ckpts=1)).train()
    assert events == [
        'epoch_1.pth',
        'last_checkpoint',
        'epoch_2.pth',
        'last_checkpoint',
        '-epoch_1.pth',
    ]


def test_what_a_kill_left_outdated_goes_when_resumed(tmp_path, monkeypatch):
    """Also where it could not be deleted; nothing else of the folder does."""
    options = dict(checkpoint=dict(max_keep_ckpts=1))
    with monkeypatch.context() as patch:  # neither is deleted
        patch.setattr(
            atomic_backend.AtomicLocalBackend, 'remove_outdated', lambda *_: None
        )
        make_runner(tmp_path, epochs=3, **options).train()
    (tmp_path / 'epoch_0.pth').write_bytes(b'of somebody')
    expected = ['epoch_0.pth', 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    assert files(tmp_path) == expected
    make_runner(tmp_path, epochs=3, resume=True, **options).train()
    assert files(tmp_path) == ['epoch_0.pth', 'epoch_3.pth']


def test_a_copy_deletes_nothing_of_the_original(tmp_path):
    options = dict(checkpoint=dict(save_best='val/score', rule='greater'))
    original, copied = tmp_path / 'a', tmp_path / 'b'
    make_runner(original, epochs=1, **options).train()
    shutil.copytree(original, copied)
    make_runner(copied, epochs=2, resume=True, **options).train()
    assert files(original) == ['best_val_score_epoch_1.pth', 'epoch_1.pth']
    assert files(copied) == ['best_val_score_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth']


def test_failed_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    runner = make_runner(tmp_path, epochs=3, checkpoint=dict(max_keep_ckpts=1))
    count, fsync = [0], os.fsync

    def full(descriptor):
        count[0] += 1
        if count[0] > 4:  # two files and two folders were synced for epoch 1
            raise OSError(28, 'No space left on device')
        fsync(descriptor)

    monkeypatch.setattr(fileio.os, 'fsync', full)
    with pytest.raises(OSError, match='Saving .* bytes to .*epoch_2.pth'):
        runner.train()
    monkeypatch.undo()
    assert files(tmp_path) == ['epoch_1.pth']
    resumed = make_runner(tmp_path, epochs=2, resume=True)
    resumed.train()
    assert resumed.epoch == 2


def test_damaged_newest_is_passed_over_and_the_run_is_the_same(tmp_path):
    whole = make_runner(tmp_path / 'whole')
    whole.train()
    make_runner(tmp_path / 'parts', epochs=3).train()
    newest = tmp_path / 'parts' / 'epoch_3.pth'
    newest.write_bytes(newest.read_bytes()[:-200])
    resumed = make_runner(tmp_path / 'parts', resume=True)
    resumed.train()
    assert len(resumed.model.seen) == 8  # from epoch 2 on
    assert_same_run(whole, resumed)


def test_explicit_damaged_checkpoint_is_an_error(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'PK\x03\x04 half a file')
    runner = make_runner(tmp_path, resume=True, load_from=str(path))
    with pytest.raises(ValueError, match='epoch_1.pth'):
        runner.train()


def test_stock_hook_and_own_backend_keep_mmengine_behaviour(tmp_path):
    options = dict(backend_args=dict(backend='local'), max_keep_ckpts=1)
    make_runner(tmp_path, epochs=2, checkpoint=options).train()
    assert files(tmp_path) == ['epoch_2.pth']


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import mergevq_mm
from pathlib import Path
from mergevq_mm.utils import atomic_backend, fileio
from toy_run import make_runner
real, saves = os.replace, [0]

def replace(a, b):  # dies when the third checkpoint is written but not yet renamed
    saves[0] += str(b).endswith('.pth')
    if saves[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)

fileio.os.replace = replace
make_runner(Path(sys.argv[1])).train()
"""


def test_killed_run_resumes_to_the_same_end(tmp_path):
    whole = make_runner(tmp_path / 'whole')
    whole.train()
    script = tmp_path / 'killed.py'
    script.write_text(KILLED)
    here = Path(__file__).parent
    killed = run_tool(script, tmp_path / 'parts', here, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first, second, half = files(tmp_path / 'parts')
    assert (first, second) == ('epoch_1.pth', 'epoch_2.pth')
    assert half.startswith('epoch_3.pth.') and half.endswith('.tmp')
    resumed = make_runner(tmp_path / 'parts', resume=True)
    resumed.train()
    assert_same_run(whole, resumed)
    assert half not in files(tmp_path / 'parts')


class Several(Score):
    """A diagnosis before the numbers that have a better and a worse."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        epoch = MessageHub.get_current_instance().get_info('epoch')
        return {'kept': 1.0, 'K4/psnr': float(epoch == 0), 'K4/rfid': 5.0}


def test_the_best_of_a_metric_that_says_what_is_better(tmp_path: Path) -> None:
    for name, key in (('auto', 'val_K4_psnr'), ('val/K4/rfid', 'val_K4_rfid')):
        folder = tmp_path / key
        runner = make_runner(
            folder, 2, checkpoint=dict(save_best=name), val_evaluator=[Several()]
        )
        runner.train()
        assert [path.name for path in folder.glob('best*')] == [
            f'best_{key}_epoch_1.pth'
        ]


@pytest.mark.parametrize('best', [None, 'auto', 'val/K4/psnr'])
def test_validation_without_a_training(best: str | None, tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path, checkpoint=dict(save_best=best), val_evaluator=[Several()]
    )
    hub = MessageHub.get_current_instance()
    hub.update_info('epoch', 0)
    assert runner.val()['val/K4/rfid'] == 5.0
    assert not list(tmp_path.glob('*.pth'))
