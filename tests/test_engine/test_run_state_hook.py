"""A resumed run equals one that was never stopped, bit for bit, on a CPU."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from tiny_gan import TinyGAN, optimizers
from tiny_gan import make_runner as make_gan_runner
from toy_run import assert_same_run, make_runner, weights

from mergevq_mm.engine import plain_types, random_state


def disturb():
    """What another process would have drawn before."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


@pytest.mark.parametrize('stop', [1, 3])
def test_resume_by_epoch_is_exact(tmp_path, stop):
    whole = make_runner(tmp_path / 'whole')
    whole.train()
    disturb()
    first = make_runner(tmp_path / 'parts', epochs=stop)
    first.train()
    disturb()
    resumed = make_runner(tmp_path / 'parts', resume=True)
    resumed.train()
    assert len(resumed.model.seen) == 4 * (4 - stop)
    assert_same_run(whole, resumed)


@pytest.mark.parametrize('stop', [3, 6])
def test_resume_by_iteration_is_exact(tmp_path, stop):
    whole = make_runner(tmp_path / 'whole', epochs=8, by_epoch=False)
    whole.train()
    first = make_runner(tmp_path / 'parts', epochs=stop, by_epoch=False)
    first.train()
    disturb()
    resumed = make_runner(tmp_path / 'parts', epochs=8, by_epoch=False, resume=True)
    resumed.train()
    assert len(resumed.model.seen) == 8 - stop
    assert_same_run(whole, resumed)


def test_best_checkpoint_resaves_the_state_before_validation(tmp_path):
    """mmengine saves again inside the validation, whose draws must not count."""
    options = dict(checkpoint=dict(save_best='val/score', rule='greater'))
    whole = make_runner(tmp_path / 'whole', **options)
    whole.train()
    make_runner(tmp_path / 'parts', epochs=2, **options).train()
    disturb()
    resumed = make_runner(tmp_path / 'parts', resume=True, **options)
    resumed.train()
    assert_same_run(whole, resumed)


def test_validation_does_not_change_training(tmp_path):
    with_val = make_runner(tmp_path / 'a', epochs=2)
    with_val.train()
    none = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
    without = make_runner(tmp_path / 'b', epochs=2, **none)
    without.train()
    assert torch.equal(weights(with_val), weights(without))


def test_checkpoint_is_plain(tmp_path):
    runner = make_runner(
        tmp_path, epochs=1, checkpoint=dict(save_best='val/score', rule='greater')
    )
    runner.message_hub.update_info('thing', object(), resumed=True)
    runner.train()
    content = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    hub = content['message_hub']
    assert 'thing' not in hub['runtime_info']
    assert type(hub['runtime_info']['best_score']) is float
    assert len(content['rng_states']) == 1
    assert content['meta']['dataset_meta']['classes'] == ('a', 'b')
    logs, counts, _ = hub['log_scalars']['train/loss'][plain_types._HISTORY]
    recorded, _ = runner.message_hub.get_scalar('train/loss').data
    assert plain_types.from_plain(logs).tolist() == recorded.tolist()


def test_plain_round_trip():
    value = dict(
        array=np.arange(6, dtype=np.uint16).reshape(2, 3),
        scalar=np.float32(0.5),
        words=np.array(['a', 'b']),
        nested=[(1, None), {'x': True}],
        tensor=torch.ones(2),
        history=HistoryBuffer([1.0, 2.0], [1, 3]),
    )
    plain = plain_types.to_plain(value)
    back = plain_types.from_plain(plain)
    assert back['array'].dtype == np.uint16
    assert back['array'].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert type(back['scalar']) is float and back['scalar'] == 0.5
    assert back['words'] == ['a', 'b'] and back['nested'] == [(1, None), {'x': True}]
    assert torch.equal(back['tensor'], value['tensor'])
    assert back['history'].mean() == value['history'].mean() == 3 / 4
    assert isinstance(value['history'], HistoryBuffer)  # the source is untouched


def test_rng_round_trip():
    random.gauss(0, 1), np.random.randn()  # both keep a second value in store
    state = random_state.get_rng_state()

    def draw():
        return [random.gauss(0, 1), np.random.randn(), torch.rand(1).item()]

    first = draw()
    disturb()
    random_state.set_rng_state(state)
    assert draw() == first


def test_other_number_of_ranks_warns_and_goes_on(tmp_path):
    make_runner(tmp_path, epochs=1).train()
    path = tmp_path / 'epoch_1.pth'
    content = torch.load(path, weights_only=True)
    content['rng_states'] *= 2
    torch.save(content, path)
    runner = make_runner(tmp_path, epochs=2, resume=True)
    logged = []
    runner.logger.handle = lambda record: logged.append(record.getMessage())
    runner.train()
    assert any('states of 2 processes and this run has 1' in text for text in logged)
    assert runner.epoch == 2


def test_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / 'foreign.pth'
    torch.save(dict(state_dict=dict(conv=torch.ones(1))), path)
    runner = make_runner(tmp_path / 'run', load_from=str(path))
    with pytest.raises(ValueError, match='fills none of the 4 keys of Toy'):
        runner.train()


def test_wrapped_weights_load(tmp_path):
    runner = make_runner(tmp_path / 'a', epochs=1)
    runner.train()
    content = torch.load(tmp_path / 'a' / 'epoch_1.pth', weights_only=True)
    state = content['state_dict']
    content['state_dict'] = {
        k.replace('net.', 'net.module.'): v for k, v in state.items()
    }
    torch.save(content, tmp_path / 'wrapped.pth')
    other = make_runner(tmp_path / 'b', load_from=str(tmp_path / 'wrapped.pth'))
    other.load_or_resume()
    assert torch.equal(weights(other), weights(runner))


def test_each_optimizer_logs_the_norm_of_its_own_gradients(tmp_path: Path) -> None:
    model = TinyGAN()
    wrappers = optimizers(model)
    for wrapper, norm in zip(wrappers.values(), (1e-3, 1e3)):
        wrapper.clip_grad_kwargs = dict(max_norm=norm)
        wrapper.clip_func = torch.nn.utils.clip_grad_norm_
        wrapper.grad_name = 'grad_norm'
    runner = make_gan_runner(tmp_path, [], model, epochs=1, wrappers=wrappers)
    for wrapper in wrappers.values():  # a runner's own are built after its hub
        wrapper.message_hub = runner.message_hub
    runner.train()
    logged = runner.message_hub.log_scalars
    found = {name: logged[name].data[1].size for name in logged if 'grad' in name}
    names = ('train/generator.grad_norm', 'train/discriminator.grad_norm')
    assert found == dict.fromkeys(names, 4)
