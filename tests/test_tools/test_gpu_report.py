"""The report on a GPU: it runs to its end on a CPU, and loses nothing on the way."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config

FOLDER = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture
def tool() -> Iterator[ModuleType]:
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module('gpu_report')
    sys.path.remove(str(FOLDER))
    for script in FOLDER.glob('*.py'):
        if script.stem not in before:
            sys.modules.pop(script.stem, None)


def run(tool: ModuleType, file: Path, *flags: str) -> dict[str, Any]:
    common = ['--small', '--device', 'cpu', '--json', str(file)]
    assert tool.main([*common, *flags]) == 0
    return json.loads(file.read_text())


def training_stand_in(arguments: list[str], work: Path, *more: Any) -> dict[str, Any]:
    """What a run of tools/train.py leaves behind."""
    seen = [4, 5] if '--resume' in arguments else [1, 2, 3]
    return dict(seen=seen, ms=20.0, waits=1.0, start=9.0, status=128 + signal.SIGTERM)


@pytest.mark.timeout(600)
def test_the_report_runs_to_its_end(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool.gpu_training, 'run_for', training_stand_in)
    content = run(tool, tmp_path / 'report.json', '--minutes', '60')
    assert content['hardware']['torch'] == torch.__version__
    ended = {part['title']: part['ended'] for part in content['sections']}
    assert all(how.startswith('complete') for how in ended.values()), ended
    card, entropy, attention, decoding, merging, encoders, step, training = (
        part['rows'] for part in content['sections']
    )
    assert [row['unit'] for row in card] == ['GB/s', 'TFLOP/s', 'TFLOP/s', 'µs']
    assert [row['form'] for row in entropy] == ['factorised (ours)', 'dense']
    assert [row['way'] for row in attention] == ['none', 'mask', 'channel']
    assert [row['way'] for row in merging] == ['kernels', 'operators']
    assert merging[0]['operators'] == 2 < merging[1]['operators']
    assert [row['part'] for row in encoders] == ['whole', 'blocks']
    for row in encoders:
        assert row['bound'] > 1 and row['operators'] > row['operators_plain'] > 0
    assert [row['way'] for row in step] == ['bf16', 'float32']
    assert all(row['operators'] > 1000 and row['rate'] > 0 for row in step)
    names = ['full', 'compressed', 'RandAR', 'RandAR with images', 'loop']
    assert [row['way'] for row in decoding] == names
    full, compressed, random, whole, loop = decoding
    assert full['ratio'] == full['rate'] / loop['rate']
    assert loop['ratio'] == 1 and loop['passes'] == full['passes'] == 64
    assert loop['operators'] > 0 and random['passes'] == whole['passes'] < 64
    assert whole['operators'] > random['operators']
    assert loop['mib'] > full['mib'] > compressed['mib']
    assert [row['iterations'] for row in training] == ['1-3', '4-5']
    assert training[0]['rate'] == 100.0  # two images in 20 ms
    text = (tmp_path / 'report.md').read_text()
    assert text.count('Ended: complete') == text.count('\n## ') == 8
    assert text.count('| compressed | ') == 1


def test_what_a_section_has_measured_stays(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its time is up, where it fails, and while it runs."""
    file = tmp_path / 'report.json'
    stored = []

    def slow(setting: Any, section: Any) -> None:
        section('Slow', {'work': 'work'}).add(work='first')
        stored.append(json.loads(file.read_text())['sections'][0])
        try:
            time.sleep(60)
        except Exception:
            raise AssertionError('a section may not keep its limit') from None

    def broken(setting: Any, section: Any) -> None:
        section('Broken', {'work': 'work'}).add(work='first')
        raise RuntimeError('out of memory\nand more')

    def nothing(setting: Any, section: Any) -> None:
        raise ValueError('no such device')

    def partly(setting: Any, section: Any) -> None:
        report = section('Partly', {'work': 'work', 'number': 'number|d'})
        report.attempt(lambda: {}['no such key'], work='first')
        report.attempt(lambda: {'number': 2}, work='second')

    parts = {'slow': (slow, 1), 'broken': (broken, 1), 'nothing': (nothing, 1)}
    parts['partly'] = partly, 1
    parts['good'] = (lambda setting, section: section('G', {'a': 'a'}).add(a='b'), 1)
    monkeypatch.setattr(tool, 'SECTIONS', parts)
    # The first one alone is slow.
    limit = lambda left, shares: 0.3 if len(shares) == len(parts) else 60.0  # noqa: E731
    monkeypatch.setattr(tool, 'limits', limit)
    monkeypatch.setattr(
        tool, 'parse_args', lambda argv, parse=tool.parse_args: _all(parse(argv), parts)
    )
    content = run(tool, file)
    (early,) = stored
    assert early['rows'] == [{'work': 'first'}] and early['ended'] == 'cut off'
    first, second, third, partly, last = content['sections']
    assert first['ended'].startswith('its time of 0 s was up')
    assert second['ended'].startswith('RuntimeError: out of memory (')
    assert third['ended'].startswith('ValueError: no such device')
    assert first['rows'] == second['rows'] == [{'work': 'first'}]
    error = "KeyError: 'no such key'"
    assert partly['ended'].startswith('1 of 2 rows failed; complete')
    assert partly['notes'] == [f'first: {error}']
    assert partly['rows'] == [
        {'work': 'first', 'error': error},
        {'work': 'second', 'number': 2},
    ]
    text = file.with_suffix('.md').read_text()
    assert '| first | – |\n| second | 2 |\n' in text and error in text
    assert last['ended'].startswith('complete') and last['rows'] == [{'a': 'b'}]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def _all(args: Any, parts: dict) -> Any:
    args.sections = list(parts)
    return args


def test_time_that_is_left_goes_on(tool: ModuleType) -> None:
    assert tool.limits(100.0, [1, 3]) == 25.0
    assert tool.limits(90.0, [3]) == 90.0  # the first one took 10
    assert tool.limits(-5.0, [3]) == 1.0
    with pytest.raises(ValueError, match='--minutes 0.0 is no time'):
        tool.parse_args(['--minutes', '0'])


def test_the_best_loop_that_was_measured_is_compared_with(tool: ModuleType) -> None:
    rates = [('graph', 1, 8.0), ('loop', 1, 2.0), ('loop', 4, 5.0), ('full', 4, None)]
    rows = [dict(way=way, batch=batch, rate=rate) for way, batch, rate in rates]
    tool.gpu_decoding.compare(rows[:1])
    assert 'ratio' not in rows[0]
    tool.gpu_decoding.compare(rows)
    assert [row.get('ratio') for row in rows] == [4.0, 1.0, 1.0, None]
    rows.append(dict(way='loop, compile', batch=1, rate=4.0))
    tool.gpu_decoding.compare(rows)
    assert [row.get('ratio') for row in rows] == [2.0, 0.5, 1.0, None, 1.0]


def test_what_a_pass_reads(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the part of the cache that attention is given, not by what is in it."""
    tests = FOLDER.parents[1] / 'tests' / 'test_models' / 'test_generators'
    monkeypatch.syspath_prepend(str(tests))
    tiny, bench = importlib.import_module('tiny_mergear'), tool.gpu_decoding
    model = tiny.make(tiny.MergeAR, window=None)
    labels = torch.tensor([1, 4, 9])

    def draw() -> Any:
        return model.sample_codes(labels, 4, [0, 1, 2], cache='full', guidance=2.0)

    way = bench.generation.Way(model, 'full', draw)
    reserve = vars(bench.TokenCache)['reserve']
    with bench.logged_reads() as log:
        way()
    assert vars(bench.TokenCache)['reserve'] is reserve
    # 29 steps after the prefix of 2: 3 to 31 slots, by blocks of 16, of 32.
    assert log == [(16, 32)] * 14 + [(32, 32)] * 15
    slots = 3 * 2 * (2 + 14 * 16 + 15 * 32)
    weights = 30 * bench.generation.weight_bytes(model, 2)
    assert bench.bytes_of(way, 'full', log, True) == weights + slots * 2 * 2 * 32 * 2
    one = bench.generation.weight_bytes(model, 1)
    assert bench.arithmetic_of(way, True) == 2 * one * 3 * 30 * 2


def test_real_training_measures_steps(tool: ModuleType, tmp_path: Path) -> None:
    """Not checkpoints, nor the starts of epochs."""
    training = tool.gpu_training
    training.write_images(tmp_path, 130, 8)
    files = list(tmp_path.glob('train/*/*.JPEG'))
    assert len(files) == 130
    assert len({file.stat().st_ino for file in files}) == training.DISTINCT
    setting = SimpleNamespace(small=True)
    cfg = Config.fromfile(training.training_config(setting, tmp_path)[0])
    assert cfg.default_hooks.checkpoint.interval == 10**6
    assert cfg.train_dataloader.batch_size == 2


TRAINING = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *args: sys.exit(143))
time.sleep(0.3)
folder = pathlib.Path(sys.argv[1], 'run' + sys.argv[2], 'vis_data')
folder.mkdir(parents=True)
with open(folder / 'scalars.json', 'a') as file:
    for step in range(int(sys.argv[2]), 10**6):
        file.write(json.dumps(dict(step=step, time=0.01, data_time=0.001)) + '\\n')
        file.flush()
        time.sleep(0.05)
"""


def test_a_training_is_asked_to_stop_once_it_has_begun(
    tool: ModuleType, tmp_path: Path
) -> None:
    run_for, work = tool.gpu_training.run_for, tmp_path / 'work'
    command = [sys.executable, '-S', '-c', TRAINING, str(work)]
    first = run_for([*command, '1'], work, 0.1, 0)  # less than its start takes
    assert first['status'] == 143 and first['start'] > 0.3
    assert first['seen'][0] == 1 and first['ms'] == 10.0 and first['waits'] == 1.0
    last = first['seen'][-1]
    then = run_for([*command, str(last + 1)], work, 0.1, last)
    assert then['seen'][0] == last + 1  # the first one's entries are not its own
    failed = [sys.executable, '-S', '-c', 'print("why"); raise SystemExit(3)']
    row = run_for(failed, work, 5.0, 10**6)
    assert row == dict(status=3, start=None, seen=[], output='why\n')


@pytest.mark.gpu
@pytest.mark.timeout(400)
def test_training_is_stopped_and_resumed(tool: ModuleType, tmp_path: Path) -> None:
    flags = ['--sections', 'training', '--minutes', '4']
    (part,) = run(tool, tmp_path / 'report.json', *flags)['sections']
    assert part['ended'].startswith('complete'), part
    first, resumed = part['rows']
    assert first['status'] == resumed['status'] == 128 + signal.SIGTERM, part
    end = int(first['iterations'].partition('-')[2])
    begin = int(resumed['iterations'].partition('-')[0])
    assert begin == end + 1
    assert first['ms'] > 0 and resumed['rate'] > 0
