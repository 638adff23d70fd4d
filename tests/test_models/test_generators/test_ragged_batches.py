"""Codes with a K of each image: from their folder to a generator's training step."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_generator as tiny
import torch
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mergevq_mm.datasets import MergeVQCodes, SameKeepBatchSampler
from mergevq_mm.datasets.codes import plan_codes
from mergevq_mm.datasets.codes_writing import start_codes, write_shard
from mergevq_mm.engine.hooks import TokenizerCheckHook
from mergevq_mm.models.generators import MergeAR, RandAR
from mergevq_mm.registry import MODELS

KEEPS = (4, 9, 16)
OWN = [9, 4, 9, 16, 9, 4, 9, 4, 9, 9, 16]  # of eleven images
ARCH = dict(embed_dims=32, num_layers=1, num_heads=2, head_layers=1, ffn_multiple=32)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes as ``tools/extract_codes.py`` writes them within a budget."""
    root, rng = tmp_path_factory.mktemp('codes') / 'own', np.random.default_rng(0)
    header = plan_codes(
        samples=len(OWN),
        shard_size=len(OWN),
        fingerprint='a' * 64,
        bits=6,
        split=(2, 4),
        grid=tiny.GRID,
        keeps=KEEPS,
        flips=1,
        classes=('a', 'b', 'c'),
        source='',
        budget='Budget(mean=9)',
    )
    start_codes(root, header)
    with write_shard(root, header, 0) as arrays:
        arrays['labels'][:] = np.arange(len(OWN)) % 3
        arrays['keep'][:] = OWN
        for i, keep in enumerate(OWN):
            arrays['index'][i, 0, :keep] = rng.integers(64, size=keep)
            arrays['group'][i, 0] = np.arange(tiny.LENGTH) % keep
    return root


def loader_of(root: Path, wrapped: str = '', **sampler: Any) -> DataLoader:
    """The loader of a config, batches of two."""
    codes = dict(type='mergevq_mm.MergeVQCodes', root=str(root), flip_prob=0)
    dataset = {
        '': codes,
        'RepeatDataset': dict(type='RepeatDataset', dataset=codes, times=2),
        'ConcatDataset': dict(type='ConcatDataset', datasets=[codes, codes]),
        'both': dict(
            type='ConcatDataset',
            datasets=[dict(type='RepeatDataset', dataset=codes, times=2), codes],
        ),
    }[wrapped]
    cfg = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='mergevq_mm.SameKeepBatchSampler', **sampler),
        collate_fn=dict(type='default_collate'),
        dataset=dataset,
    )
    return Runner.build_dataloader(cfg, seed=0)


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ('kind', 'more'),
    [
        (MergeAR, {}),
        (MergeAR, dict(sequence='distinct', first_places=True)),
        (RandAR, {}),
        (RandAR, dict(positions='raster')),
    ],
)
def test_generators_train_on_batches_of_each_k(
    root: Path, kind: type, more: dict
) -> None:
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type=kind,
            tokenizer=dict(type='mergevq_mm.FakeTokenizer'),
            arch=ARCH,
            num_classes=3,
            keep=dict(target=9, candidates=KEEPS, family='uniform'),
            **more,
        )
    )
    model.init_weights()
    loader = loader_of(root)
    runner = SimpleNamespace(model=model, train_dataloader=loader)
    TokenizerCheckHook().before_train(runner)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    seen = []
    for batch in loader:
        numbers = [sample.sample_idx for sample in batch['data_samples']]
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        losses = model.train_step(batch, optimizer)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert {float(losses['keep'])} == {float(OWN[i]) for i in numbers}
        assert math.isfinite(losses['loss'].detach()) and not torch.equal(before, after)
        seen += numbers
    assert sorted(seen) == list(range(11))


# ----------------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ('wrapped', 'times'), [('RepeatDataset', 2), ('ConcatDataset', 2), ('both', 3)]
)
def test_wrapped_codes_have_a_k_each(root: Path, wrapped: str, times: int) -> None:
    loader = loader_of(root, wrapped)
    seen = []
    for batch in loader:
        numbers = [sample.sample_idx for sample in batch['data_samples']]
        assert {OWN[i] for i in numbers} == {batch['inputs']['index'].shape[1]}
        seen += numbers
    assert sorted(seen) == sorted(times * list(range(11)))
    assert loader.dataset.metainfo['ragged']  # so that the hook asks for this sampler


def test_other_data_sets_are_named(root: Path) -> None:
    codes = MergeVQCodes(root, flip_prob=0)
    subset = SimpleNamespace(dataset=torch.utils.data.Subset(codes, [0]))
    with pytest.raises(ValueError, match='give it .*Codes .*, not Subset; or leave it'):
        SameKeepBatchSampler(subset, 4)


def test_each_rank_makes_as_many_batches_the_last_ones_smaller() -> None:
    """Which full batches alone, torch's ``drop_last``, would not."""
    keeps = np.random.default_rng(0).choice([4, 9, 16, 25], 200).tolist()

    class Images(list):
        ragged, keep_of = True, list.__getitem__

    full = set()
    for rank in range(4):
        sampler = DefaultSampler(Images(keeps), shuffle=True, seed=1)
        sampler.rank, sampler.world_size = rank, 4
        sampler.num_samples, sampler.total_size = 50, 200
        for drop_last, number in ((True, 6), (False, 7)):
            batches = SameKeepBatchSampler(sampler, 8, drop_last)
            found = list(batches)
            sizes = [len(batch) for batch in found]
            assert len(sizes) == len(batches) == number
            whole = sizes.count(8)
            assert set(sizes[:whole]) == {8} and 0 < min(sizes) < 8
            assert all(len({keeps[i] for i in batch}) == 1 for batch in found)
        full.add(whole)
    assert len(full) > 1
