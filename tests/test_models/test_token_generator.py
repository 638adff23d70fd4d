"""TokenGenerator: training steps, requests, seeds, and what mmagic gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from ready_processes import run_ranks
from tiny_generator import CLASSES, GRID, LENGTH, VALUES, build
from torch import distributed

from mergevq_mm.models.generators import (
    GuardedDistributedDataParallel,
    generation_request,
)
from mergevq_mm.models.generators.sampling import sample_seeds
from mergevq_mm.models.utils.keep_sampling import KeepSampler
from mergevq_mm.utils.distributed import end_process_group


def grey_batch(number: int = 4, listed: bool = False) -> dict:
    """Images of one colour each, as BGR grey values, with labels."""
    colours = torch.arange(number).float() * 10
    images = torch.stack([colours, colours + 30, colours + 60], dim=1)  # B, G, R
    images = images[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(number)]
    return dict(inputs=list(images) if listed else images, data_samples=samples)


def code_batch(keeps: Sequence[int] = (4, 9, 16), number: int = 4) -> dict:
    """A batch of cached codes as ``MergeVQCodes`` gives it."""
    inputs = {}
    for keep in keeps:
        inputs[f'index_K{keep}'] = torch.full((number, keep), keep, dtype=torch.int32)
        inputs[f'group_K{keep}'] = torch.zeros(number, LENGTH, dtype=torch.int32)
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(number)]
    return dict(inputs=inputs, data_samples=samples)


@pytest.fixture
def iteration():
    """Sets the number of the training iteration."""
    hub = MessageHub.get_current_instance()
    yield lambda number: hub.update_info('iter', number)
    hub.runtime_info.pop('iter', None)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch):
    """Pretends to be one of several processes."""

    def be(rank: int, world: int) -> None:
        monkeypatch.setattr(generation_request, 'get_rank', lambda: rank)
        monkeypatch.setattr(generation_request, 'get_world_size', lambda: world)

    return be


# ------------------------------------------------------------------------- training


def test_images_are_encoded_at_the_k_of_the_iteration(iteration) -> None:
    model = build()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    drawn = []
    for number in range(6):
        iteration(number)
        log = model.train_step(grey_batch(), wrapper)
        batch = model.seen[-1]
        drawn.append(batch.index.shape[1])
        assert log['keep'] == drawn[-1] and log['nonfinite'] == 0
        # RGB mean of (60, 30, 0) + colour, in [-1, 1], in 64 steps.
        grey = ((np.arange(4) * 10 + 30) / 255 * 63).round().astype(int)
        assert batch.index.tolist() == [[g] * drawn[-1] for g in grey]
        assert batch.labels.tolist() == [0, 1, 2, 0] and batch.grid == GRID
    sampler = KeepSampler(target=9, candidates=[4, 9, 16], family='uniform')
    assert drawn == [sampler(number) for number in range(6)] and len(set(drawn)) > 1


def test_cached_codes_of_the_same_k(iteration) -> None:
    model = build()
    sampler = model.keep_sampler
    for number in range(4):
        iteration(number)
        losses = model.loss(**code_batch())
        keep = sampler(number)
        assert model.seen[-1].index.tolist() == [[keep] * keep] * 4
        assert model.seen[-1].index.dtype == model.seen[-1].group.dtype == torch.int64
        assert losses['keep'] == keep


def test_cached_codes_of_another_raster() -> None:
    """A map of other positions, or other numbers of codes than their name says."""
    model = build(keep=9)
    for name in ('group_K9', 'index_K9'):
        data = code_batch()
        data['inputs'][name] = data['inputs'][name][:, :8]
        message = f'at K=9 have . codes and . positions, .* has {LENGTH} positions'
        with pytest.raises(ValueError, match=message.replace('and .', 'and .+')):
            model.encode(data['inputs'], data['data_samples'], 9)


def test_cached_codes_with_a_k_of_their_own() -> None:
    """The batch says K, not the iteration; K has to be one of the generator's."""
    model = build(keep=dict(target=9, candidates=[4, 9], weights=[0, 1]))
    data = code_batch([4])
    data['inputs'] = {n.removesuffix('_K4'): v for n, v in data['inputs'].items()}
    assert set(data['inputs']) == {'index', 'group'}
    losses = model.loss(**data)
    assert losses['keep'] == 4
    assert torch.equal(model.seen[-1].index, data['inputs']['index'])
    assert torch.equal(model.seen[-1].group, data['inputs']['group'])
    data['inputs']['index'] = data['inputs']['index'][:, :3]
    with pytest.raises(ValueError, match=r'keep=3 is not known .*one of \[4, 9\]'):
        model.loss(**data)


def test_cached_codes_without_that_k() -> None:
    model = build(keep=4)
    with pytest.raises(ValueError, match=r'keep=4 .* of K=\[9, 16\]; extract it'):
        model.loss(**code_batch([16, 9]))
    with pytest.raises(ValueError, match='no gt_label'):
        model.loss(torch.zeros(1, 3, 8, 8), [DataSample()])


def test_a_step_moves_the_weights_by_the_gradient() -> None:
    model = build(keep=4)
    model.scale.weight.data.fill_(2.0)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5))
    log = model.train_step(code_batch([4]), wrapper)
    value = 4 / VALUES
    assert log['loss'].item() == pytest.approx((2 * value) ** 2)
    assert model.scale.weight.item() == pytest.approx(2 - 0.5 * 4 * value**2)


def test_a_loss_that_is_not_finite_moves_nothing() -> None:
    model = build(keep=4)
    model.scale.weight.data.fill_(torch.inf)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5))
    assert model.train_step(code_batch([4]), wrapper)['nonfinite'] == 1
    assert model.scale.weight.item() == torch.inf
    assert model.scale.weight.grad is None


def steps(rank: int) -> dict:
    """Three steps on two images a rank, the second one spoiled on rank 1."""
    model = build(keep=4)
    model.scale.weight.data.fill_(2.0 + rank)  # the wrapper takes that of rank 0
    called = GuardedDistributedDataParallel(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5))
    logs, weights = [], []
    for step in range(3):
        data = code_batch([4])
        index = torch.arange(16).reshape(4, 4) + step
        part = slice(2 * rank, 2 * rank + 2)
        data['inputs'] = {n: v[part] for n, v in data['inputs'].items()}
        data['inputs']['index_K4'] = index[part]
        data['data_samples'] = data['data_samples'][part]
        bad = step == 1 and rank == 1
        hook = model.scale.register_forward_hook(
            lambda module, args, out: out * torch.inf if bad else None  # noqa: B023
        )
        log = called.train_step(data, wrapper)
        hook.remove()
        logs.append({name: value.item() for name, value in log.items()})
        weights.append(model.scale.weight.item())
    return dict(logs=logs, weights=weights)


def worker(rank: int, folder: str) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    torch.save(steps(rank), f'{folder}/{rank}.pt')
    end_process_group()


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    run_ranks(worker, (str(tmp_path),))
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert [log['nonfinite'] for log in first['logs']] == [0, 1, 0]
    assert [log['nonfinite'] for log in second['logs']] == [0, 1, 0]
    assert first['weights'] == second['weights']
    assert first['weights'][0] == first['weights'][1] != first['weights'][2]
    # By hand: the mean over ranks of the gradients 2 w m² of (w m)².
    weight = 2.0
    for step in (0, 2):
        means = [(torch.arange(8.0) + 8 * r + step).mean() / VALUES for r in (0, 1)]
        weight -= 0.5 * float(sum(2 * weight * m**2 for m in means)) / 2
        assert first['weights'][step] == pytest.approx(weight, rel=1e-5)


def test_only_what_learns_is_in_the_checkpoint_and_in_the_average() -> None:
    model = build()
    assert list(model.state_dict()) == ['scale.weight']
    assert model.GENERATOR_PARTS == ('scale',)
    assert model.keeps == (4, 9, 16)


# ------------------------------------------------------------------- real images


@pytest.mark.parametrize('listed', [False, True])
def test_real_images_for_the_metrics(listed: bool) -> None:
    model = build()
    batch = grey_batch(listed=listed)
    data = model.data_preprocessor(batch, False)
    real = data['data_samples'].gt_img
    assert torch.equal(real, torch.stack(list(batch['inputs'])))  # BGR, 0..255
    rgb = build(data_preprocessor=dict(to_rgb=False)).data_preprocessor
    assert torch.equal(rgb(batch, False)['data_samples'].gt_img, real.flip(1))
    assert torch.allclose(rgb(batch, True)['inputs'], real / 127.5 - 1)


def test_images_of_several_sizes() -> None:
    batch = dict(inputs=[torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)])
    with pytest.raises(ValueError, match='resize and crop them to one size'):
        build().data_preprocessor(batch, False)


# --------------------------------------------------------------------- generation


def test_a_batch_is_its_samples() -> None:
    model = build().eval()
    labels = [2, 0, 1, 1, 0]
    images, drawn = model.generate(labels, seed=7)
    seeds = sample_seeds(7, 0, 5)
    for i, label in enumerate(labels):
        alone, codes = model.generate([label], seeds=seeds[i : i + 1])
        assert torch.equal(alone[0], images[i])
        assert torch.equal(codes.index[0], drawn.index[i])
    assert images.shape == (5, 3, 8, 8) and -1 <= images.min() <= images.max() <= 1
    assert not torch.equal(images[2], images[3])
    other, _ = model.generate(labels, seed=8)
    assert not torch.equal(other, images)


def test_generation_in_training_mode_comes_back_to_it() -> None:
    model = build().train()
    images, _ = model.generate([0, 1])
    assert model.training
    assert torch.equal(images, model.eval().generate([0, 1])[0])


def test_sample_cfg_is_a_default() -> None:
    plain = build().eval()
    model = build(sample_cfg=dict(shift=3, keep=16, seed=5, complete=False)).eval()
    images, drawn = model.generate([1, 2])
    expected, _ = plain.generate([1, 2], 16, 5, shift=3, complete=False)
    assert torch.equal(images, expected) and drawn.keep == 16 and not drawn.complete
    again, drawn = model.generate([1, 2], keep=4, seed=6, shift=0)
    expected, _ = plain.generate([1, 2], 4, 6, complete=False)
    assert torch.equal(again, expected) and drawn.keep == 4


def test_numbers_do_not_depend_on_the_ranks(ranks) -> None:
    model = build()
    whole = {}
    model.eval()
    for sample in model.val_step(dict(inputs=dict(num_batches=12))):
        whole[sample.sample_number] = sample
    assert list(whole) == list(range(12))
    assert [int(s.gt_label.label) for s in whole.values()] == [0, 1, 2] * 4
    for world in (2, 3):
        seen = {}
        for rank in range(world):
            ranks(rank, world)
            model.eval()
            for _ in range(12 // world // 2):  # batches of two
                for sample in model.val_step(dict(inputs=dict(num_batches=2))):
                    seen[sample.sample_number] = sample
        assert sorted(seen) == list(range(12))
        for number, sample in seen.items():
            assert torch.equal(sample.fake_img, whole[number].fake_img)
            assert sample.gt_label.label == whole[number].gt_label.label


def test_each_evaluation_and_each_group_of_metrics_counts_from_zero() -> None:
    model = build().eval()

    def numbers(**request: Any) -> list[int]:
        samples = model.test_step(dict(inputs=dict(num_batches=2, **request)))
        return [sample.sample_number for sample in samples]

    assert numbers(sample_model='orig') == [0, 1]
    assert numbers(sample_model='ema') == [0, 1]
    assert numbers(sample_model='orig') == [2, 3]
    assert numbers(first=9) == [9, 10]
    model.generate([0])
    assert numbers(sample_model='orig') == [4, 5]
    model.train().eval()
    assert numbers(sample_model='orig') == [0, 1]


def test_what_the_metrics_get() -> None:
    from mmagic.structures import DataSample as GenerativeSample

    model = build().eval()
    request = dict(labels=[2, 2], first=4, seed=1, sample_kwargs=dict(shift=1), keep=4)
    samples = model.val_step(dict(inputs=request))
    seeds = sample_seeds(1, 4, 2)
    images, drawn = model.generate([2, 2], 4, seeds=seeds, shift=1)
    for sample, image in zip(samples, images, strict=True):
        assert isinstance(sample, GenerativeSample)
        expected = ((image + 1) * 127.5).round()
        assert torch.equal(sample.fake_img, expected[[2, 1, 0]])  # BGR
        assert sample.fake_img[0].max() == 0 and sample.fake_img[2].max() > 0
        assert sample.gt_label.label.tolist() == [2]
        assert sample.sample_stats == {'distinct': 4}
    assert drawn.keep == 4


def test_classes_of_given_samples() -> None:
    from mmagic.structures import DataSample as GenerativeSample

    model = build().eval()
    mine = [GenerativeSample().set_gt_label(i) for i in (2, 0)]
    samples = model.predict(dict(num_batches=2), mine)
    assert [int(s.gt_label.label) for s in samples] == [2, 0]
    collated = pseudo_collate([dict(inputs=0, data_samples=s) for s in mine])
    labels = generation_request.labels_of(collated['data_samples'])
    assert labels.tolist() == [2, 0]


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda m: m.generate([0, 3]), r'labels hold the class 3; .* 0 to 2'),
        (lambda m: m.generate([-1]), 'the class -1'),
        (lambda m: m.generate([0], keep=5), r'keep=5 .* one of \[4, 9, 16\]'),
        (lambda m: m.generate([0, 1], seeds=[1]), 'seeds are 1 for 2 labels'),
        (lambda m: m.predict(dict(num_batches=0)), 'num_batches=0'),
        (lambda m: m.predict(dict()), 'num_batches=None'),
        (lambda m: m.predict(dict(number=3)), r"inputs=\['number'\] is no request"),
        (lambda m: m.predict(torch.zeros(1, 3, 8, 8)), 'inputs=images is no request'),
    ],
)
def test_bad_requests(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(build().eval())


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(num_classes=0), 'num_classes=0'),
        (dict(keep=25), r'keep=\[25\] holds more tokens than the 16'),
        (dict(sample_cfg=dict(keep=5)), 'keep=5 is not known'),
    ],
)
def test_bad_configs(overrides: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**overrides)


def test_no_keep_is_no_merging() -> None:
    assert build(keep=None).keeps == (LENGTH,)
