"""Two gloo processes learn what one process learns from the joint batch."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.model.wrappers import seperate_distributed
from mmengine.optim import OptimWrapper, OptimWrapperDict
from ready_processes import run_ranks
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mergevq_mm.models import LFQ, MergeVQ
from mergevq_mm.models.utils.finite import guarded_update
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.distributed import end_process_group

WORLD = 2
ITERATION = 7
HYBRID = {
    'stem': 'hybrid',
    'base_channels': 8,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'num_layers': 2,
    'num_heads': 2,
}
TEACHER = {
    'stem': 'patch',
    'embed_dims': 16,
    'patch_size': 4,
    'num_layers': 1,
    'num_heads': 2,
}


@MODELS.register_module(force=True)
class TinyDiscriminator(nn.Sequential):
    """Without batch norm, whose statistics are those of a rank."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3, padding=1)
        )


class Recorder(torch.optim.SGD):
    """Keeps the gradients of each step and changes nothing."""

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        super().__init__(named.values(), lr=0.0)
        self.named = named
        self.steps: list[dict[str, Tensor]] = []

    def gradients(self) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in self.named.items()
        }

    def step(self, closure: object = None) -> None:
        self.steps.append(self.gradients())


def build_model() -> MergeVQ:
    """A small model with every loss on, LayerScale near 1 and a lively entropy."""
    model = MergeVQ(
        backbone={
            'type': 'mergevq_mm.MergeVQEncoder',
            'arch': HYBRID,
            'img_size': 8,
            'layer_scale': 1.0,
        },
        quantizer={
            'type': 'mergevq_mm.LFQ',
            'bits': 6,
            'split': (2, 4),
            'in_channels': 16,
            'temperature': 1.0,
            'entropy_weight': 3.0,
        },
        neck={
            'type': 'mergevq_mm.SourceRecovery',
            'bits': 6,
            'grid': (4, 4),
            'embed_dims': 16,
            'num_heads': 2,
            'feedforward_channels': 32,
        },
        decoder={
            'type': 'mergevq_mm.MergeVQDecoder',
            'bits': 6,
            'base_channels': 8,
            'channel_mult': (1, 2),
            'num_res_blocks': 1,
            'num_layers': 1,
            'num_heads': 2,
            'layer_scale': 1.0,
        },
        head={
            'type': 'mergevq_mm.MergeVQHead',
            'pixel': {'l1': 1.0, 'l2': 1.0},
            'source': {},
            'gan_weight': 0.5,
            'alignment': {'in_channels': 16, 'out_channels': 16, 'layers': 2},
        },
        discriminator={'type': 'mergevq_mm.TinyDiscriminator'},
        target_generator={
            'type': 'mergevq_mm.FrozenTeacher',
            'random_init': True,
            'network': {
                'type': 'mergevq_mm.MergeVQEncoder',
                'arch': TEACHER,
                'img_size': 8,
            },
        },
        keep={'target': 9, 'candidates': [6, 9, 12]},
    )
    return model.train()


def batches(rank: int | None, number: int) -> list[dict]:
    """Batches of four images and their views, of which a rank gets two."""
    generator = torch.Generator().manual_seed(11)
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    return [
        {
            'inputs': [
                torch.randint(256, (4, 3, 8, 8), generator=generator).float()[part]
                for _ in range(3)
            ],
            'data_samples': None,
        }
        for _ in range(number)
    ]


def train(rank: int | None, micro_batches: int = 1, bad_rank: int = -1) -> dict:
    """One update from ``micro_batches``; everything that the test compares."""
    torch.manual_seed(0 if rank is None else rank)  # DDP must spread rank 0's weights
    model = build_model()
    names = {id(p): name for name, p in model.named_parameters()}
    parts = {'generator': [], 'discriminator': []}
    for name, p in model.named_parameters():
        side = 'discriminator' if name.startswith('discriminator.') else 'generator'
        parts[side].append(p)
    recorders = {
        side: Recorder({names[id(p)]: p for p in ps}) for side, ps in parts.items()
    }
    wrappers = OptimWrapperDict(
        **{
            side: OptimWrapper(recorder, accumulative_counts=micro_batches)
            for side, recorder in recorders.items()
        }
    )
    wrappers.initialize_count_status(model, 0, 100)
    stepper = model
    if rank is not None:
        stepper = MMSeparateDistributedDataParallel(model, device_ids=None)

    logs, partial = [], {}
    hub = MessageHub.get_current_instance()
    todo = batches(rank, micro_batches)
    if bad_rank >= 0:
        bad = batches(rank, 1)[0]
        if rank in (None, bad_rank):
            bad['inputs'][1][0] = float('nan')  # seen by this rank's alignment alone
        todo.insert(0, bad)
    for i, batch in enumerate(todo):
        hub.update_info('iter', ITERATION + i)
        logs.append(stepper.train_step(batch, wrappers))
        if i == 0 and micro_batches > 1:
            partial = recorders['generator'].gradients()
    return {
        'gradients': {k: v for r in recorders.values() for k, v in r.steps[-1].items()},
        'steps': [len(r.steps) for r in recorders.values()],
        'partial': partial,
        'logs': [{k: v.item() for k, v in log.items()} for log in logs],
        'lecam': [model.lecam.real_mean.item(), model.lecam.fake_mean.item()],
    }


def quantize(rank: int | None) -> dict:
    """Gradients of LFQ's losses with and without a shared mean distribution."""
    tokens = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(3))
    z = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(4))
    out = {}
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    for sync in (True, False):
        torch.manual_seed(0)
        lfq = LFQ(6, split=(2, 4), temperature=1.0, sync=sync).train()
        own = z[part].clone().requires_grad_()
        losses = lfq(own).losses
        (losses['loss_entropy'] + losses['loss_commit']).backward()
        out[sync] = {'z': own.grad, **{k: v.item() for k, v in losses.items()}}

        lfq = LFQ(6, 16, split=(2, 4), temperature=1.0, sync=sync).train()
        wrapped = lfq if rank is None else DistributedDataParallel(lfq)
        losses = wrapped(tokens[part]).losses
        (losses['loss_entropy'] + losses['loss_commit']).backward()
        out[sync]['weights'] = [p.grad for p in lfq.parameters()]
    return out


def guard(rank: int | None) -> dict:
    """A gradient that is infinite on rank 1 alone, in a module without wrapper."""
    module = nn.Linear(2, 1, bias=False)
    wrapper = OptimWrapper(torch.optim.SGD(module.parameters(), lr=0.1))
    found, moved = [], []
    for scale in (float('inf') if rank in (None, 1) else 1.0, 1.0):
        before = module.weight.detach().clone()
        handle = module.weight.register_hook(lambda gradient, s=scale: gradient * s)
        update = guarded_update(wrapper, module(torch.ones(1, 2)).sum())
        found.append((update.finite, update.stepped))
        handle.remove()
        moved.append(not torch.equal(before, module.weight))
    return {'updates': found, 'moved': moved}


def everything(rank: int | None) -> dict:
    """All that is compared."""
    return {
        'lfq': quantize(rank),
        'one': train(rank),
        'two': train(rank, micro_batches=2),
        'nan': train(rank, bad_rank=1),
        'guard': guard(rank),
    }


def worker(rank: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    seperate_distributed.get_device = lambda: 'cpu'  # also where there is a GPU
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=120),
    )
    torch.save(everything(rank), f'{folder}/{rank}.pt')
    end_process_group()


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Results of rank 0, of rank 1, and of one process."""
    folder: Path = tmp_path_factory.mktemp('ranks')
    processes = run_ranks(worker, (str(folder),), nprocs=WORLD, join=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other beside the processes
    single = everything(None)
    torch.set_num_threads(threads)
    while not processes.join():
        pass
    return [*(torch.load(folder / f'{rank}.pt') for rank in range(WORLD)), single]


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = float(value.abs().max())
        # 2e-5: some gradients are sums of large numbers that cancel.
        torch.testing.assert_close(
            found[name],
            value,
            rtol=1e-3,
            atol=1e-3 * size + 2e-5,
            msg=lambda text, n=name: f'{n}: {text}',
        )


def test_entropy_gradient_is_that_of_the_joint_batch(results: list[dict]) -> None:
    first, second, single = (r['lfq'][True] for r in results)
    # Data-parallel training averages what the ranks' tokens contribute.
    joint = torch.cat([first['z'], second['z']]) / WORLD
    torch.testing.assert_close(joint, single['z'], rtol=1e-5, atol=1e-8)
    for a, b, c in zip(first['weights'], second['weights'], single['weights']):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-7)
    assert first['batch_entropy'] == pytest.approx(single['batch_entropy'], rel=1e-6)
    assert first['batch_entropy'] == second['batch_entropy']
    means = (first['loss_entropy'] + second['loss_entropy']) / 2
    assert means == pytest.approx(single['loss_entropy'], rel=1e-5)


def test_without_sync_each_rank_has_its_own_entropy(results: list[dict]) -> None:
    first, second, single = (r['lfq'][False] for r in results)
    assert first['batch_entropy'] != second['batch_entropy']
    joint = torch.cat([first['z'], second['z']]) / WORLD
    assert not torch.allclose(joint, single['z'], rtol=1e-2, atol=0)
    assert single['batch_entropy'] == pytest.approx(
        results[2]['lfq'][True]['batch_entropy']
    )


def test_all_losses_take_part(results: list[dict]) -> None:
    log = results[2]['one']['logs'][0]
    assert {
        'loss_pixel',
        'loss_gan',
        'loss_source',
        'loss_align',
        'loss_entropy',
        'loss_commit',
        'loss_d_hinge',
        'loss_d_lecam',
    } <= set(log)
    assert log['nonfinite'] == 0
    gradients = results[2]['one']['gradients']
    dead = [name for name, g in gradients.items() if not g.abs().sum() > 0]
    assert not dead


@pytest.mark.parametrize('run', ['one', 'two'])
def test_gradients_are_those_of_the_joint_batch(results: list[dict], run: str) -> None:
    first, second, single = (r[run] for r in results)
    assert first['steps'] == second['steps'] == single['steps'] == [1, 1]
    for name, value in first['gradients'].items():
        assert torch.equal(value, second['gradients'][name]), name
    compare(first['gradients'], single['gradients'])
    assert first['lecam'] == second['lecam']
    assert first['lecam'] == pytest.approx(single['lecam'], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('run', ['one', 'two'])
def test_ranks_keep_the_same_number_of_tokens(results: list[dict], run: str) -> None:
    kept = [[log['keep'] for log in r[run]['logs']] for r in results]
    assert kept[0] == kept[1] == kept[2]
    assert set(kept[0]) <= {6.0, 9.0, 12.0}


def test_losses_are_the_means_of_the_ranks(results: list[dict]) -> None:
    first, second, single = (r['one']['logs'][0] for r in results)
    for name in single:
        if name.startswith('loss'):
            mean = (first[name] + second[name]) / 2
            assert mean == pytest.approx(single[name], rel=1e-3, abs=1e-5), name


def test_only_the_last_micro_batch_is_shared(results: list[dict]) -> None:
    first, second = (r['two']['partial'] for r in results[:2])
    same = [name for name, g in first.items() if torch.equal(g, second[name])]
    assert not same


def test_a_bad_batch_on_one_rank_is_skipped_on_both(results: list[dict]) -> None:
    first, second, single = (r['nan'] for r in results)
    for result in (first, second, single):
        assert [log['nonfinite'] for log in result['logs']] == [1, 0]
        assert result['steps'] == [1, 1]
    # And the next batch is learned as if nothing had happened.
    for name, value in first['gradients'].items():
        assert torch.equal(value, second['gradients'][name]), name
        assert value.isfinite().all(), name
    compare(first['gradients'], single['gradients'])
    assert first['lecam'] == second['lecam']
    assert first['lecam'] == pytest.approx(single['lecam'], rel=1e-4, abs=1e-6)


def test_an_infinite_gradient_on_one_rank_is_dropped_on_both(
    results: list[dict],
) -> None:
    for result in results:
        updates = result['guard']['updates']
        assert updates == [(False, False), (True, True)]  # finite, stepped
        assert result['guard']['moved'] == [False, True]
