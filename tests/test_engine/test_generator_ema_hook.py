"""GeneratorEMAHook: the average against the slow formula, and its life in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS
from mmengine.runner.checkpoint import load_state_dict
from tiny_gan import Numbers, TinyGAN, make_runner, optimizers
from torch import Tensor, nn

from mergevq_mm.engine.hooks import GeneratorEMAHook
from mergevq_mm.engine.hooks.generator_ema_hook import copy_tensors, generator_view

MOMENTUM = 0.25
State = dict[str, Tensor]


class Recorder(Hook):
    """Copies the raw weights after each iteration, and those seen in validation."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.weights: list[State] = []

    def after_train_iter(self, runner, *args: object, **kwargs: object) -> None:
        state = runner.model.state_dict()
        self.weights.append({k: v.clone() for k, v in state.items()})


def train(work_dir: Path, epochs: int = 2, **kwargs):
    """Train with the hook; return runner, hook and recorded weights."""
    hook, recorder = GeneratorEMAHook(momentum=MOMENTUM), Recorder()
    runner = make_runner(work_dir, [hook, recorder], epochs=epochs, **kwargs)
    runner.train()
    return runner, hook, recorder.weights


def slow_average(weights: list[State], names: list[str]) -> State:
    """The recursion of the docstring, number by number."""
    average = {name: weights[0][name].clone() for name in names}
    for raw in weights[1:]:
        for name in names:
            flat, new = average[name].view(-1), raw[name].view(-1)
            for i in range(flat.numel()):
                flat[i] = (1 - MOMENTUM) * flat[i] + MOMENTUM * new[i]
    return average


def parameter_names(model: nn.Module) -> list[str]:
    return [
        name
        for name, _ in model.named_parameters()
        if not name.startswith('discriminator')
    ]


def assert_same(found: State, expected: State, tolerance: float = 0.0) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=name
        )


# ---- the value --------------------------------------------------------------


def test_value_against_the_slow_formula(tmp_path: Path) -> None:
    runner, hook, weights = train(tmp_path)
    assert len(weights) == 8 and int(hook.ema_model.steps) == 8
    names = parameter_names(runner.model)
    found = hook.ema_model.module.state_dict()
    assert_same(found, slow_average(weights, names), tolerance=1e-6)
    assert not torch.equal(found[names[0]], weights[-1][names[0]])
    # Buffers are the model's latest, not averaged.
    assert_same(
        {'m': found['backbone.1.running_mean']},
        {'m': weights[-1]['backbone.1.running_mean']},
    )


def test_one_update_an_optimizer_step_under_accumulation(tmp_path: Path) -> None:
    runner, hook, weights = train(tmp_path, accumulate=3)
    # Eight iterations, steps of the optimizer after the 3rd, the 6th and the last:
    # RunStateHook tells the wrappers where the run ends.
    assert int(hook.ema_model.steps) == 3
    names = parameter_names(runner.model)
    expected = slow_average([weights[2], weights[5], weights[7]], names)
    assert_same(hook.ema_model.module.state_dict(), expected, tolerance=1e-6)


def test_a_skipped_batch_moves_nothing(tmp_path: Path) -> None:
    _, hook, weights = train(tmp_path, epochs=1, bad=(2,))
    assert int(hook.ema_model.steps) == 3
    names = [name for name in weights[0] if name in dict(TinyGAN().named_parameters())]
    names = [name for name in names if not name.startswith('discriminator')]
    expected = slow_average([weights[0], weights[2], weights[3]], names)
    assert_same(hook.ema_model.module.state_dict(), expected, tolerance=1e-6)


def test_only_the_generator_and_no_frozen_network(tmp_path: Path) -> None:
    model = TinyGAN(frozen_size=64)
    _, hook, _ = train(tmp_path, epochs=1, model=model)
    names = set(hook.ema_model.module.state_dict())
    assert names == {
        name for name in model.state_dict() if not name.startswith('discriminator')
    }
    modules = [type(m).__name__ for m in hook.ema_model.module.modules()]
    assert set(modules) == {'Module'}  # nothing but tensors was copied
    assert not any(hasattr(m, 'frozen') for m in hook.ema_model.module.modules())


# ---- validation, files, resuming ---------------------------------------------


def val_kwargs() -> dict:
    loader = dict(
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=Numbers(),
    )
    return dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=[])


def test_validation_sees_the_average(tmp_path: Path) -> None:
    runner, hook, weights = train(tmp_path, **val_kwargs())
    model = runner.model
    seen = dict(zip((n for n, _ in model.named_parameters()), model.seen_in_val))
    names = parameter_names(model)
    assert_same(seen, slow_average(weights, names), tolerance=1e-6)
    state = model.state_dict()
    raw = {name: weights[-1][name] for name in names}
    assert_same(state, raw)  # swapped back afterwards
    name = 'discriminator.weight'
    assert_same({name: seen[name]}, {name: weights[-1][name]})


def test_checkpoint_holds_average_and_raw_weights(tmp_path: Path) -> None:
    runner, hook, weights = train(tmp_path)
    file = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    names = parameter_names(runner.model)
    assert set(file['state_dict']) == set(runner.model.state_dict())
    assert_same(file['state_dict'], slow_average(weights, names), tolerance=1e-6)
    raw = {f'module.{name}': weights[-1][name] for name in names}
    assert_same(file['ema_state_dict'], raw)
    assert int(file['ema_state_dict']['steps']) == 8
    assert not any('discriminator' in name for name in file['ema_state_dict'])
    # A plain model without the hook gets the average.
    fresh = TinyGAN()
    fresh.load_state_dict(file['state_dict'])
    assert_same(fresh.state_dict(), slow_average(weights, names), tolerance=1e-6)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    _, whole, weights = train(tmp_path / 'whole', epochs=3)
    train(tmp_path / 'halves', epochs=2)
    model = TinyGAN()
    nn.init.zeros_(model.decoder.weight)  # what is not loaded would show
    runner, hook, _ = train(
        tmp_path / 'halves',
        epochs=3,
        model=model,
        resume=True,
        load_from=str(tmp_path / 'halves' / 'epoch_2.pth'),
    )
    assert runner.iter == 12
    assert_same(runner.model.state_dict(), weights[-1])
    assert_same(hook.ema_model.state_dict(), whole.ema_model.state_dict())


def test_resuming_without_an_average_starts_one(tmp_path: Path) -> None:
    make_runner(tmp_path, [], epochs=1).train()
    _, hook, weights = train(
        tmp_path, resume=True, load_from=str(tmp_path / 'epoch_1.pth')
    )
    assert int(hook.ema_model.steps) == 4
    names = [name for name in weights[0] if name.endswith('weight')]
    names = [name for name in names if not name.startswith('discriminator')]
    expected = slow_average(weights, names)
    assert_same(hook.ema_model.module.state_dict(), expected, tolerance=1e-6)


def test_loading_weights_starts_a_new_average(tmp_path: Path) -> None:
    train(tmp_path / 'a', epochs=1)
    path = tmp_path / 'a' / 'epoch_1.pth'
    hook = GeneratorEMAHook(begin_iter=4)  # not before the last of four iterations
    model = TinyGAN()
    runner = make_runner(
        tmp_path / 'b', [hook], epochs=1, model=model, load_from=str(path)
    )
    runner.train()
    assert int(hook.ema_model.steps) == 1
    found = hook.ema_model.module.state_dict()
    assert_same(found, {n: model.state_dict()[n] for n in found})


# ---- distributed wrappers ----------------------------------------------------


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    store = f'file://{tmp_path / "store"}'
    dist.init_process_group('gloo', init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_wrapped_parts_keep_their_names(gloo: None) -> None:
    model = TinyGAN()
    names = set(model.state_dict())
    for part in ('backbone', 'decoder', 'discriminator'):
        wrapped = MMDistributedDataParallel(module=getattr(model, part))
        model._modules[part] = wrapped
    assert 'backbone.module.0.weight' in model.state_dict()
    view = generator_view(model, TinyGAN.GENERATOR_PARTS)
    assert set(view.state_dict()) == {n for n in names if 'discriminator' not in n}
    assert view.backbone is model.backbone.module  # a view, not a copy


def test_hook_in_a_distributed_run(tmp_path: Path, gloo: None) -> None:
    model = TinyGAN()
    plain = train(tmp_path / 'plain')[1].ema_model.state_dict()
    hook = GeneratorEMAHook(momentum=MOMENTUM)
    wrappers = optimizers(model)
    for part in ('backbone', 'decoder', 'discriminator'):
        model._modules[part] = MMDistributedDataParallel(module=getattr(model, part))
    make_runner(tmp_path / 'run', [hook], model=model, wrappers=wrappers).train()
    assert_same(hook.ema_model.state_dict(), plain)
    file = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=False)
    fresh = TinyGAN()
    fresh.load_state_dict(file['state_dict'])  # strict: all names are plain
    # And back into wrapped parts.
    load_state_dict(model, file['state_dict'], strict=True)


# ---- small things ------------------------------------------------------------


def test_copy_keeps_order_sharing_and_persistence() -> None:
    source = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    source[1].weight = source[0].weight
    source.append(source[0])
    source.register_buffer('kept', torch.ones(1))
    source.register_buffer('dropped', torch.ones(1), persistent=False)
    tree = copy_tensors(source)
    assert [n for n, _ in tree.named_parameters()] == [
        n for n, _ in source.named_parameters()
    ]
    assert list(tree.state_dict()) == list(source.state_dict())
    assert [n for n, _ in tree.named_buffers()] == ['kept', 'dropped']
    child = dict(tree.named_children())
    assert (
        child['1'].weight is child['0'].weight and tree.get_submodule('2') is child['0']
    )
    assert not any(p.requires_grad for p in tree.parameters())
    with torch.no_grad():
        source[0].weight.add_(1)
    assert not torch.equal(child['0'].weight, source[0].weight)


def test_bad_arguments(tmp_path: Path) -> None:
    for momentum in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=f'momentum={momentum}'):
            GeneratorEMAHook(momentum=momentum)
    with pytest.raises(ValueError, match=r"parts=\['nothing'\]"):
        generator_view(TinyGAN(), ['nothing'])
    hook = GeneratorEMAHook(optimizer='g')
    with pytest.raises(ValueError, match=r"optimizer='g'.*discriminator"):
        make_runner(tmp_path, [hook]).train()
    built = HOOKS.build(dict(type='mergevq_mm.GeneratorEMAHook', parts=['decoder']))
    assert built.parts == ('decoder',)
