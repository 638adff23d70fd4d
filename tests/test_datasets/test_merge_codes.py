"""Files of codes and the data set MergeVQCodes: values, laziness, refusals."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mergevq_mm.datasets import MergeVQCodes
from mergevq_mm.datasets.codes import CodesHeader, open_array, plan_codes, read_header
from mergevq_mm.datasets.codes_writing import (
    missing_shards,
    start_codes,
    write_shard,
)
from mergevq_mm.registry import DATASETS

KEEPS, SAMPLES, SHARD = (4, 6), 7, 3
PLAN = dict(
    samples=SAMPLES,
    shard_size=SHARD,
    fingerprint='ab' * 32,
    bits=6,
    split=(2, 4),
    grid=(2, 3),
    keeps=KEEPS,
    flips=2,
    classes=('cat', 'dog', 'emu'),
    source='0' * 64,
)


def values(header: CodesHeader, number: int) -> dict[str, np.ndarray]:
    """Arrays of a shard: noise from its number."""
    rng = np.random.default_rng(number)
    made = {}
    for name, (shape, dtype) in header.arrays(header.shards[number]['samples']).items():
        top = 3 if name == 'labels' else 4
        made[name] = rng.integers(0, top, shape).astype(dtype)
    return made


def fill(root: Path, header: CodesHeader, number: int) -> None:
    with write_shard(root, header, number) as arrays:
        for name, value in values(header, number).items():
            arrays[name][:] = value


def write(root: Path, **overrides) -> Path:
    header = plan_codes(**{**PLAN, **overrides})
    start_codes(root, header)
    for number in missing_shards(root, header):
        fill(root, header, number)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / 'codes')


def expected(name: str) -> np.ndarray:
    """An array of the whole data set."""
    header = plan_codes(**PLAN)
    return np.concatenate([values(header, i)[name] for i in range(3)])


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize('flip', [0, 1])
def test_items_are_what_was_written(root, flip):
    dataset = MergeVQCodes(root, flip_prob=float(flip))
    assert len(dataset) == SAMPLES and dataset.metainfo['classes'] == PLAN['classes']
    assert dataset.metainfo['fingerprint'] == PLAN['fingerprint']
    for i in range(SAMPLES):
        item = dataset[i]
        assert sorted(item['inputs']) == [
            'group_K4',
            'group_K6',
            'index_K4',
            'index_K6',
        ]
        for name, tensor in item['inputs'].items():
            assert tensor.dtype == torch.int64
            assert np.array_equal(tensor.numpy(), expected(name)[i, flip])
        label = int(expected('labels')[i])
        assert item['data_samples'].gt_label.tolist() == [label]
        assert dataset.get_cat_ids(i) == [label]
        assert (item['data_samples'].sample_idx, item['data_samples'].flip) == (i, flip)


def test_plain_numpy_reads_the_files(root):
    for name in ('labels', 'index_K4', 'group_K6'):
        files = sorted(root.glob(f'shard_*/{name}.npy'))
        assert len(files) == 3
        assert np.array_equal(np.concatenate([*map(np.load, files)]), expected(name))
    header = json.loads((root / 'codes.json').read_text())
    assert [shard['samples'] for shard in header['shards']] == [3, 3, 1]
    for shard in header['shards']:
        for name, size in shard['files'].items():
            assert (root / shard['name'] / name).stat().st_size == size
    assert read_header(root) == plan_codes(**PLAN)


def test_flip_is_drawn_from_torchs_random_numbers(root):
    dataset = MergeVQCodes(root, flip_prob=0.3)
    torch.manual_seed(0)
    drawn = [dataset[0]['data_samples'].flip for _ in range(400)]
    torch.manual_seed(0)
    assert drawn == [bool(torch.rand(()) < 0.3) for _ in range(400)]
    assert 0.2 < sum(drawn) / 400 < 0.4
    for keep in KEEPS:  # codes and groups, of both K, of the same image
        torch.manual_seed(1)
        item = dataset[2]
        row = int(item['data_samples'].flip)
        index = item['inputs'][f'index_K{keep}'].numpy()
        assert np.array_equal(index, expected(f'index_K{keep}')[2, row])


@pytest.mark.parametrize(
    ('indices', 'numbers'),
    [(None, range(7)), (2, [0, 1]), (-2, [5, 6]), ([6, 0, 6], [6, 0, 6])],
)
def test_takes_the_samples_and_the_keeps_asked_for(root, indices, numbers):
    dataset = MergeVQCodes(root, keep=[6], indices=indices, flip_prob=0)
    assert [dataset[i]['data_samples'].sample_idx for i in range(len(dataset))] == [
        *numbers
    ]
    labels = [dataset.get_cat_ids(i)[0] for i in range(len(dataset))]
    assert labels == expected('labels')[[*numbers]].tolist()
    assert dataset.present_classes() == sorted(set(labels))
    assert set(dataset[0]['inputs']) == {'index_K6', 'group_K6'}
    assert MergeVQCodes(root, keep=4).keeps == (4,)


def ragged(root: Path) -> Path:
    """Codes of a K for each image, ascending numbers behind it."""
    header = plan_codes(**{**PLAN, 'budget': 'Budget(mean=5)'})
    start_codes(root, header)
    for number in missing_shards(root, header):
        with write_shard(root, header, number) as arrays:
            for name, value in values(header, number).items():
                arrays[name][:] = value
            arrays['keep'][:] = [6, 4, 6][: len(arrays['keep'])]
            arrays['group'][:] = np.arange(6) % 4
    return root


def test_images_with_a_keep_of_their_own(tmp_path):
    dataset = MergeVQCodes(ragged(tmp_path / 'codes'), flip_prob=0, indices=[1, 2, 0])
    assert dataset.ragged and dataset.metainfo['ragged'] and dataset.keeps == KEEPS
    header = dataset.header
    assert header.version == 2 and header.budget == 'Budget(mean=5)'
    assert [dataset.keep_of(i) for i in range(3)] == [4, 6, 6]
    for i, number in enumerate([1, 2, 0]):
        item, keep = dataset[i]['inputs'], dataset.keep_of(i)
        assert sorted(item) == ['group', 'index']
        right = values(header, 0)['index'][number, 0, :keep]
        assert item['index'].tolist() == right.tolist()
        assert item['group'].tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(ValueError, match='keep=4 cannot be read .*Budget.mean=5.; lea'):
        MergeVQCodes(tmp_path / 'codes', keep=4)
    keeps = np.load(tmp_path / 'codes/shard_00001/keep.npy', mmap_mode='r+')
    keeps[0] = 5
    keeps.flush()
    with pytest.raises(ValueError, match=r'of K=5, which is none of \[4, 6\]; extr'):
        MergeVQCodes(tmp_path / 'codes', flip_prob=0)


def test_a_loader_of_a_config_makes_batches_of_one_keep(tmp_path):
    data = dict(type='mergevq_mm.MergeVQCodes', flip_prob=0)
    loader = Runner.build_dataloader(
        dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='mergevq_mm.SameKeepBatchSampler'),
            collate_fn=dict(type='default_collate'),
            dataset=dict(data, root=str(ragged(tmp_path / 'codes'))),
        ),
        seed=0,
    )
    keeps = [6, 4, 6, 6, 4, 6, 6]
    seen = []
    for batch in loader:
        numbers = [sample.sample_idx for sample in batch['data_samples']]
        assert {keeps[i] for i in numbers} == {batch['inputs']['index'].shape[1]}
        seen += numbers
    assert sorted(seen) == list(range(7)) and len(loader) == 4


def test_codes_of_all_keeps_are_written_as_before_there_were_budgets(root):
    assert 'budget' not in json.loads((root / 'codes.json').read_text())
    assert read_header(root).version == 1 and not MergeVQCodes(root).ragged
    with pytest.raises(ValueError, match='was begun with version=1, not 2; give ano'):
        start_codes(root, plan_codes(**{**PLAN, 'budget': 'Budget(mean=5)'}))


# ----------------------------------------------------------------- laziness, processes


def test_maps_files_when_they_are_needed(root, monkeypatch):
    opened = []
    load = np.load

    def spy(path, mmap_mode=None, **kwargs):
        assert mmap_mode == 'r'
        opened.append(f'{path.parent.name}/{path.stem}')
        return load(path, mmap_mode=mmap_mode, **kwargs)

    monkeypatch.setattr(np, 'load', spy)
    dataset = MergeVQCodes(root, keep=4)
    assert opened == [f'shard_0000{i}/labels' for i in range(3)]
    opened.clear()
    dataset[4], dataset[3]
    assert opened == ['shard_00001/index_K4', 'shard_00001/group_K4']
    assert all(isinstance(array, np.memmap) for array in dataset._arrays.values())


def test_pickles_without_the_files(root):
    dataset = MergeVQCodes(root, flip_prob=0)
    [dataset[i] for i in range(SAMPLES)]
    again = pickle.loads(pickle.dumps(dataset))
    assert len(dataset._arrays) == 12 and not again._arrays
    assert torch.equal(again[5]['inputs']['index_K6'], dataset[5]['inputs']['index_K6'])


@pytest.mark.parametrize(
    'context', ['fork', pytest.param('spawn', marks=pytest.mark.slow)]
)
def test_serves_a_loader_with_a_worker(root, context):
    cfg = dict(type='mergevq_mm.MergeVQCodes', root=str(root), flip_prob=0)
    dataset = DATASETS.build(cfg)
    dataset[0]  # an open map must not disturb the worker
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=1,
        collate_fn=default_collate,
        multiprocessing_context=context,
    )
    batches = list(loader)
    assert [len(batch['data_samples']) for batch in batches] == [4, 3]
    for name in ('index_K4', 'group_K6'):
        found = torch.cat([batch['inputs'][name] for batch in batches])
        assert np.array_equal(found.numpy(), expected(name)[:, 0])


# ------------------------------------------------------------------------- bad folders


def test_refuses_codes_of_another_tokenizer(root):
    class Tokenizer(nn.Module):
        def fingerprint(self):
            return 'cd' * 32

    MergeVQCodes(root, fingerprint='ab' * 32)
    text = 'holds codes of the tokenizer abab.*, not of cdcd.*; extract'
    with pytest.raises(ValueError, match=text):
        MergeVQCodes(root, fingerprint='cd' * 32)
    with pytest.raises(ValueError, match=text):
        MergeVQCodes(root, tokenizer=Tokenizer())


def test_refuses_a_half_written_shard_and_the_next_run_redoes_it(root):
    header = read_header(root)
    shutil.rmtree(root / 'shard_00001')
    with pytest.raises(ValueError, match='shard_00001 is missing; run tools/extract'):
        MergeVQCodes(root)
    with pytest.raises(KeyboardInterrupt), write_shard(root, header, 1) as arrays:
        arrays['labels'][:] = 1
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match='shard_00001 is only half written; run tools'):
        MergeVQCodes(root)
    assert missing_shards(root, header) == [1]
    fill(root, header, 1)
    assert sorted(path.name for path in root.iterdir()) == [
        'codes.json',
        *(f'shard_0000{i}' for i in range(3)),
    ]
    assert MergeVQCodes(root, flip_prob=0)[4]['inputs']['index_K4'].tolist() == (
        expected('index_K4')[4, 0].tolist()
    )


def test_refuses_files_of_another_length_or_content(root):
    file = root / 'shard_00000' / 'group_K6.npy'
    whole = file.read_bytes()
    for content in (whole[:-10], whole + b'more'):
        file.write_bytes(content)
        text = f'group_K6.npy has {len(content)} bytes, not {len(whole)}; run tools'
        with pytest.raises(ValueError, match=text):
            MergeVQCodes(root)
    file.unlink()
    with pytest.raises(ValueError, match='group_K6.npy has 0 bytes'):
        MergeVQCodes(root)
    file.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match='group_K6.npy holds no array, not .*; delete'):
        MergeVQCodes(root, flip_prob=0)[0]
    other = root / 'shard_00001' / 'group_K6.npy'
    file.write_bytes(other.read_bytes().replace(b"'<u2'", b"'<i2'"))
    with pytest.raises(ValueError, match='holds .*int16.*, not .*uint16.*; delete'):
        MergeVQCodes(root, flip_prob=0)[0]


def test_refuses_labels_without_a_class(root):
    labels = np.load(root / 'shard_00002' / 'labels.npy', mmap_mode='r+')
    labels[0] = 3
    labels.flush()
    with pytest.raises(ValueError, match='labels from . to 3 for 3 classes; extract'):
        MergeVQCodes(root)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (None, 'holds no readable codes.json .*; give a folder'),
        ('{"version": 1', 'holds no readable codes.json .*; give a folder'),
        ('[]', 'holds no readable codes.json .*; give a folder'),
        ({'version': 9}, 'of format 9, .* 2; install the mergevq_mm that wrote them'),
        ({'version': 0}, 'holds codes of format 0, .* 2; extract them anew'),
        ({'samples': 8}, 'damaged codes.json: its shards hold 7 samples, not 8; give'),
        ({'extra': 8}, 'has a damaged codes.json; give'),
        ({'budget': 'x'}, "damaged codes.json: budget='x' is none; give"),
    ],
)
def test_refuses_folders_without_a_header(root, change, text):
    file = root / 'codes.json'
    if change is None:
        file.unlink()
    elif isinstance(change, str):
        file.write_text(change)
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=f'root="{root}".*{text}'):
        MergeVQCodes(root)


def test_refuses_arguments_that_the_codes_do_not_fit(root, tmp_path):
    for kwargs, text in (
        (dict(keep=5), r'keep=\[5\] is not among the K of .*\[4, 6\]; choose'),
        (dict(keep=[]), r'keep=\[\] is not among'),
        (dict(flip_prob=1.5), r'flip_prob=1.5 lies outside \[0, 1\]; give'),
        (dict(indices=[0, 7]), 'indices hold a sample .*; give numbers from 0 to 6'),
    ):
        with pytest.raises(ValueError, match=text):
            MergeVQCodes(root, **kwargs)
    single = write(tmp_path / 'single', flips=1)
    with pytest.raises(ValueError, match='flip_prob=0.5 needs mirror .*; set flip_pr'):
        MergeVQCodes(single)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert not MergeVQCodes(single, flip_prob=0)[0]['data_samples'].flip
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------ writing


def test_writing_continues_the_same_codes_only(root, tmp_path):
    start_codes(root, plan_codes(**PLAN))
    for change, text in (
        (dict(fingerprint='cd' * 32), "begun with fingerprint='abab.*, not 'cdcd"),
        (dict(keeps=(4,)), r'begun with keeps=\[4, 6\], not \[4\]; give another'),
        (dict(source='1' * 64), 'begun with source='),
        (dict(shard_size=4), r'begun with shards=\[3, 3, 1\], not \[4, 3\]; give'),
    ):
        with pytest.raises(ValueError, match=f'out="{root}" was {text}'):
            start_codes(root, plan_codes(**{**PLAN, **change}))
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'thesis.tex').write_text('important')
    with pytest.raises(
        ValueError, match=r'holds other files \(thesis.tex\) .*; give a'
    ):
        start_codes(foreign, plan_codes(**PLAN))
    assert [path.name for path in foreign.iterdir()] == ['thesis.tex']


def test_refuses_plans_that_cannot_be_stored():
    for change, text in (
        (dict(samples=0), 'samples=0 and shard_size=3 must be at least 1; give'),
        (dict(shard_size=0), 'shard_size=0 must be'),
        (dict(keeps=(4, 4)), r'keeps=\[4, 4\] of 6 positions cannot be stored; give'),
        (dict(grid=(512, 512)), 'of 262144 positions cannot be stored'),
    ):
        with pytest.raises(ValueError, match=text):
            plan_codes(**{**PLAN, **change})


def test_a_full_disk_ends_the_shard_with_a_sentence(root, monkeypatch):
    import errno
    import os

    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    header = read_header(root)
    text = r'no room for ".*labels.npy"; free some'
    with pytest.raises(OSError, match=text), write_shard(root, header, 0):
        raise AssertionError('there is no room')
    assert missing_shards(root, header) == []  # the old one is kept


@pytest.mark.parametrize(
    ('name', 'value', 'limit'),
    [('index_K4', 64, 64), ('index_K6', -1, 64), ('group_K4', 4, 4)],
)
def test_codes_out_of_range(name: str, value: int, limit: int, tmp_path: Path) -> None:
    """They would wrap, or be another code's."""
    root = write(tmp_path / 'codes')
    file = root / 'shard_00001' / f'{name}.npy'
    array = np.load(file)
    array[1, 0, 2] = value
    np.save(file, array)
    data = MergeVQCodes(root, flip_prob=0.0)
    data[3]
    message = rf'{name} of sample 4 holds values .*outside of \[0, {limit}\)'
    with pytest.raises(ValueError, match=message):
        data[4]


# ------------------------------------------------------------------ damaged files


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('fingerprint', 3),
        ('bits', '6'),
        ('bits', 6.0),
        ('bits', True),
        ('bits', 40),
        ('split', [3, 4]),
        ('split', 'ab'),
        ('split', [[2], 4]),
        ('grid', [2]),
        ('grid', []),
        ('grid', [2, 0]),
        ('grid', ['2', '3']),
        ('grid', [2**20, 2**20]),
        ('keeps', []),
        ('keeps', [4.0]),
        ('keeps', [0]),
        ('keeps', [7]),
        ('keeps', [[4]]),
        ('flips', 0),
        ('flips', 3),
        ('flips', None),
        ('samples', '7'),
        ('samples', -7),
        ('classes', [1, 2]),
        ('classes', None),
        ('source', []),
        ('shards', {}),
        ('shards', [1, 2]),
        ('shards', [{'name': '../../etc', 'samples': 7, 'files': {}}]),
        ('version', '1'),
        ('extra', 1),
    ],
)
def test_a_header_of_wrong_types(tmp_path: Path, field: str, value: object) -> None:
    root = write(tmp_path / 'codes')
    content = json.loads((root / 'codes.json').read_text())
    content[field] = value
    (root / 'codes.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='codes.json|codes of format') as caught:
        read_header(root)
    assert str(root) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('field', ['name', 'samples', 'files'])
@pytest.mark.parametrize('value', [None, '../x', 0, -1, {'../labels.npy': 1}, []])
def test_a_shard_of_wrong_types(tmp_path: Path, field: str, value: object) -> None:
    root = write(tmp_path / 'codes')
    content = json.loads((root / 'codes.json').read_text())
    content['shards'][0][field] = value
    (root / 'codes.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='damaged codes.json'):
        read_header(root)


@pytest.mark.parametrize('text', ['', '[1]', '{"version": 1}', '[' * 10**5, '"a"'])
def test_a_header_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / 'codes.json').write_text(text)
    with pytest.raises(ValueError, match='codes.json'):
        read_header(tmp_path)


def test_damaged_arrays_are_named(tmp_path: Path) -> None:
    """Any byte of the header, a pickle, an archive, and nothing."""
    root = write(tmp_path / 'codes')
    header = read_header(root)
    path = root / 'shard_00000' / 'labels.npy'
    good, refused = path.read_bytes(), 0
    archive = tmp_path / 'a.npz'
    np.savez(archive, labels=np.arange(3))
    rng = np.random.default_rng(0)
    tries = [b'', b'\x80\x02}.', archive.read_bytes()]
    for place in rng.choice(128, 60, replace=False):
        data = bytearray(good)
        data[place] ^= 1 << int(rng.integers(8))
        tries.append(bytes(data))
    for data in tries:
        path.write_bytes(data)
        try:
            open_array(root, header, 0, 'labels')
        except ValueError as error:
            refused += 1
            assert 'shard_00000/labels.npy holds' in str(error)
            assert '\n' not in str(error)
    assert refused > 40
