import copy

import pytest
import torch
from torch import multiprocessing as mp

import mergevq_mm  # noqa: F401
from mergevq_mm.models.losses import (
    LeCAM,
    hinge_discriminator_loss,
    nonsaturating_generator_loss,
)
from mergevq_mm.registry import MODELS


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    # relu(1 - real) = 0, 0.5, 2; relu(1 + fake) = 0, 1
    loss = hinge_discriminator_loss(real, fake)
    assert loss.item() == pytest.approx(0.5 * (2.5 / 3 + 0.5))


def test_generator_loss_takes_the_mean_logit_of_each_image():
    fake = torch.tensor([[0.0, 2.0], [-1.0, -3.0]]).reshape(2, 1, 1, 2)
    expected = sum(torch.log1p(torch.exp(torch.tensor(-m))) for m in (1.0, -2.0)) / 2
    assert nonsaturating_generator_loss(fake).item() == pytest.approx(expected.item())


def test_lecam_equals_a_slow_loop():
    torch.manual_seed(0)
    lecam = LeCAM(decay=0.9, weight=0.5)
    real_mean = fake_mean = None
    for _ in range(4):
        real, fake = torch.randn(3, 1, 2, 2) + 1, torch.randn(3, 1, 2, 2) - 1
        loss = lecam(real, fake)
        if real_mean is None:
            real_mean, fake_mean = real.mean().item(), fake.mean().item()
        else:
            real_mean = 0.9 * real_mean + 0.1 * real.mean().item()
            fake_mean = 0.9 * fake_mean + 0.1 * fake.mean().item()
        first = [max(v - fake_mean, 0) ** 2 for v in real.flatten().tolist()]
        second = [max(real_mean - v, 0) ** 2 for v in fake.flatten().tolist()]
        expected = 0.5 * (sum(first) + sum(second)) / 12
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_lecam_state_is_saved_and_evaluation_leaves_it():
    lecam = LeCAM()
    lecam(torch.full((2,), 3.0), torch.full((2,), -1.0))
    resumed = MODELS.build(dict(type='mergevq_mm.LeCAM'))
    resumed.load_state_dict(copy.deepcopy(lecam.state_dict()))
    assert resumed.real_mean == 3 and resumed.fake_mean == -1 and resumed.initialized
    real, fake = torch.tensor([1.0]), torch.tensor([0.0])
    assert torch.equal(lecam(real, fake), resumed(real, fake))
    assert lecam.real_mean.item() == pytest.approx(3 * 0.999 + 0.001)
    before = lecam.real_mean.clone()
    lecam.eval()(real, fake)
    assert torch.equal(lecam.real_mean, before)


def test_lecam_pulls_logits_together():
    lecam = LeCAM()
    real, fake = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    lecam(real, fake).backward()
    assert (real.grad > 0).all() and (fake.grad < 0).all()


def test_lecam_refuses_a_decay_of_one():
    with pytest.raises(ValueError, match='decay=1.0'):
        LeCAM(decay=1.0)


def _rank(rank, port, queue):
    import os

    import mergevq_mm.models.losses as losses

    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    torch.set_num_threads(1)
    lecam, dino = losses.LeCAM(), losses.DINOAlignmentLoss(2)
    value = float(rank * 2 + 1)  # 1 and 3, the mean over ranks is 2
    lecam(torch.full((2,), value), torch.full((2,), -value))
    dino(torch.zeros(2, 2), torch.full((2, 2), value))
    queue.put((lecam.real_mean.item(), lecam.fake_mean.item(), dino.center.tolist()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_means_are_those_of_all_ranks():
    import socket

    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    context = mp.get_context('fork')  # no second import of everything
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(r, port, queue)) for r in range(2)]
    for process in ranks:
        process.start()
    results = [queue.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    for real_mean, fake_mean, center in results:
        assert (real_mean, fake_mean) == (2.0, -2.0)
        assert center == pytest.approx([0.2, 0.2])
