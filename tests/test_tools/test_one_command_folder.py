"""The folder of a one-command training, its seconds and its data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from mergevq_mm.engine import work_dir_lock

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / 'tools'))

import emoji  # noqa: E402
import one_command_clock as clocks  # noqa: E402
import one_command_data  # noqa: E402
import one_command_folder as folders  # noqa: E402
import quickstart  # noqa: E402


def test_time_left_follows_the_pace() -> None:
    minutes = {'a': 10, 'b': 20, 'c': 30}
    assert clocks.time_left(minutes, {}) == (0, 60)
    assert clocks.time_left(minutes, {'a': 1200.0}) == (pytest.approx(1 / 6), 100)
    # A small phase says too little.
    assert clocks.time_left({'a': 5, 'b': 95}, {'a': 60.0})[1] == 95
    # What was there already takes no time, and tells none.
    share, left = clocks.time_left(minutes, {'a': 2.0, 'b': 600.0})
    assert share == 0.5 and left == 15
    assert clocks.hours(left) == '15 min' and clocks.hours(161) == '2 h 41 min'


def test_clock_tells_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clock = clocks.Clock(emoji.PLAN)
    with clock.phase('data'):
        pass
    with clock.phase('training'):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('[emoji] data ... [....') and 'left in all' in lines[0]
    assert lines[1] == '[emoji] data: 0 s'
    assert not list(tmp_path.iterdir())
    quiet = clocks.Clock(quickstart.PLAN)
    quiet.keep(tmp_path / 'quick')
    with quiet.phase('data'):
        pass
    assert capsys.readouterr().out == '[quickstart] data ...\n[quickstart] data: 0 s\n'


def test_a_run_that_goes_on_knows_how_long_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pace is not that of the last part, and its seconds are those of all."""
    told = {'seconds': {'data': 60.0, 'training': 4560.0}, 'broken': ['training']}
    (tmp_path / clocks.SECONDS).write_text(json.dumps(told))
    clock = clocks.Clock(emoji.PLAN)
    with clock.phase('data'):
        pass
    clock.keep(tmp_path)
    with clock.phase('training'):
        pass
    lines = capsys.readouterr().out.splitlines()
    whole = sum(emoji.PLAN.minutes.values())
    assert clocks.hours(whole) in lines[0], 'nothing is done before it is here'
    assert lines[-1] == '[emoji] training: 4560 s'
    assert clock.seconds == {'data': 60.0, 'training': 4560.0}
    with pytest.raises(KeyboardInterrupt), clock.phase('probe'):
        raise KeyboardInterrupt
    kept = json.loads((tmp_path / clocks.SECONDS).read_text())
    assert list(kept['seconds']) == ['data', 'training', 'probe']
    assert kept['broken'] == ['probe'], 'the part before a stop counts'
    for before, broken, all_of_it in ((100.0, True, 130.0), (100.0, False, 100.0)):
        told = {'seconds': {'probe': before}, 'broken': ['probe'] * broken}
        (tmp_path / clocks.SECONDS).write_text(json.dumps(told))
        clock = clocks.Clock(emoji.PLAN)
        clock.keep(tmp_path)
        times = iter((0.0, 30.0))
        monkeypatch.setattr(clocks.time, 'perf_counter', lambda t=times: next(t))
        with clock.phase('probe'):
            pass
        monkeypatch.undo()
        assert clock.seconds['probe'] == all_of_it and not clock.broken


@pytest.mark.parametrize('content', ['', '{"seconds": {"da', '[]', '{"seconds": 1}'])
def test_seconds_that_were_cut_short_count_as_none(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / clocks.SECONDS).write_text(content)
    clock = clocks.Clock(emoji.PLAN)
    clock.keep(tmp_path)
    with clock.phase('probe'):
        pass
    assert list(clock.seconds) == ['probe']


BEGUN = {'data': 'Version 2', 'tokenizer': 'a.py', 'seed': 0, 'short': False}


def test_one_commands_folder_is_not_the_others(tmp_path: Path) -> None:
    folders.begin(tmp_path, emoji.PLAN, BEGUN)
    (tmp_path / 'epoch_1.pth').touch()
    for resume in (False, True):
        with pytest.raises(ValueError, match='or of an earlier quickstart'):
            folders.begin(tmp_path, quickstart.PLAN, BEGUN, resume)
    # An earlier run's numbers and pictures would pass for this one's.
    left = ('summary.json', 'drawn_random.png', 'tokens.png', clocks.SECONDS)
    for name in left:
        (tmp_path / name).touch()
    folders.begin(tmp_path, emoji.PLAN, BEGUN, resume=True)
    assert all((tmp_path / name).is_file() for name in (*left, 'epoch_1.pth'))
    folders.begin(tmp_path, emoji.PLAN, BEGUN)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {emoji.PLAN.mark, folders.BEGUN}


@pytest.mark.parametrize(
    'name, value', [('data', 'Version 3'), ('seed', 7), ('short', True), ('data', None)]
)
def test_a_run_goes_on_as_it_was_begun(
    name: str, value: object, tmp_path: Path
) -> None:
    folders.begin(tmp_path, emoji.PLAN, BEGUN)
    (tmp_path / 'last_checkpoint').touch()
    folders.begin(tmp_path, emoji.PLAN, BEGUN, resume=True)
    other = {**BEGUN, name: value}
    text = f'was begun with {name}={BEGUN[name]}, not with {name}={value}: --resume'
    with pytest.raises(ValueError, match=text):
        folders.begin(tmp_path, emoji.PLAN, other, resume=True)
    (tmp_path / folders.BEGUN).write_text('{"da')
    with pytest.raises(ValueError, match='seed=unknown'):
        folders.begin(tmp_path, emoji.PLAN, BEGUN, resume=True)
    (tmp_path / 'last_checkpoint').unlink()  # nothing to go on with
    folders.begin(tmp_path, emoji.PLAN, other, resume=True)
    assert json.loads((tmp_path / folders.BEGUN).read_text()) == other


@contextmanager
def another_run(work_dir: Path) -> Iterator[int]:
    """A lock of a living process on a folder; its number."""
    with subprocess.Popen(['sleep', '600']) as other:
        owner = {
            'pid': other.pid,
            'machine': work_dir_lock._machine(),
            'started': work_dir_lock._started(other.pid),
        }
        file = work_dir / work_dir_lock.LOCK_NAME
        file.write_text(json.dumps(owner))
        try:
            yield other.pid
        finally:
            other.kill()


@pytest.mark.parametrize('flags', [[], ['--resume']], ids=['anew', 'resume'])
@pytest.mark.parametrize('command', [emoji, quickstart], ids=['emoji', 'quickstart'])
def test_a_run_that_has_not_ended_is_left_alone(
    command: ModuleType,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders.begin(tmp_path, command.PLAN, BEGUN)
    (tmp_path / 'epoch_5.pth').touch()
    monkeypatch.setattr(command, 'prepare_data', lambda *_: pytest.fail('too late'))
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(
        sys, 'argv', [command.PLAN.name, '--work-dir', str(tmp_path), *flags]
    )
    with another_run(tmp_path) as pid:
        with pytest.raises(SystemExit, match=f'in use by process {pid}'):
            command.main()
        # Between two trainings, too: a phase looks.
        clock = clocks.Clock(command.PLAN)
        clock.keep(tmp_path)
        with pytest.raises(ValueError, match='in use by'), clock.phase('probe'):
            pytest.fail('two runs in one folder')
    assert (tmp_path / 'epoch_5.pth').is_file()
    with clock.phase('probe'):
        assert (tmp_path / 'run.lock').is_file()
    assert not (tmp_path / 'run.lock').exists()


@pytest.mark.parametrize('command', [emoji, quickstart], ids=['emoji', 'quickstart'])
def test_nothing_is_lost_where_the_data_are_refused(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.begin(tmp_path, command.PLAN, BEGUN)
    for name in ('epoch_5.pth', 'summary.json', clocks.SECONDS):
        (tmp_path / name).write_text('{}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(command, 'prepare_data', lambda *_: sys.exit('no data'))
    monkeypatch.setattr(sys, 'argv', [command.PLAN.name, '--work-dir', str(tmp_path)])
    monkeypatch.chdir(REPO)
    with pytest.raises(SystemExit, match='no data'):
        command.main()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('command', [emoji, quickstart], ids=['emoji', 'quickstart'])
@pytest.mark.parametrize('inside', [False, True])
def test_a_work_dir_that_cannot_be_made(
    command: ModuleType, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'file'
    file.touch()
    work_dir = file / 'run' if inside else file
    monkeypatch.setattr(sys, 'argv', [command.PLAN.name, '--work-dir', str(work_dir)])
    monkeypatch.chdir(REPO)
    with pytest.raises(SystemExit, match=r'work_dir=".*" cannot be written .*choose'):
        command.main()


def test_files_that_were_cut_short_are_not_whole(tmp_path: Path) -> None:
    file = tmp_path / 'teacher.safetensors'
    config = REPO / emoji.PLAN.tokenizer
    assert not one_command_data.is_whole(file)
    save_file({'x': torch.zeros(100)}, file)
    assert one_command_data.is_whole(file)
    assert not one_command_data.are_targets_fresh(file, config)  # of nobody
    teacher = str(Config.fromfile(config).teacher)
    save_file({'x': torch.zeros(100)}, file, {'teacher': teacher})
    assert one_command_data.are_targets_fresh(file, config)
    file.write_bytes(file.read_bytes()[:-10])
    assert not one_command_data.is_whole(file)
    assert not one_command_data.are_targets_fresh(file, config)


def test_reconstructions_are_those_of_the_last_evaluation(tmp_path: Path) -> None:
    folders.keep_reconstructions(tmp_path)  # none yet
    assert not list(tmp_path.iterdir())
    for name, age in (('a', 20), ('b', 0), ('c', 10)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / 'reconstruction_test.png'
        file.write_text(name)
        os.utime(file, (1000 - age, 1000 - age))
    folders.keep_reconstructions(tmp_path)
    assert (tmp_path / 'reconstructions.png').read_text() == 'b'
