"""Compiled parts, channels-last weights and bfloat16: same results, same names."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_mergevq as tiny
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from ready_processes import run_ranks
from torch import nn

from mergevq_mm.engine import Bf16OptimWrapper, SpeedHook
from mergevq_mm.engine.hooks.speed_hook import prepare
from mergevq_mm.engine.quiet_runner import QuietRunner
from mergevq_mm.models.utils.graphed_methods import GraphedMethod
from mergevq_mm.utils.compiling import recompile_limit
from mergevq_mm.utils.distributed import end_process_group


@pytest.fixture(autouse=True)
def recompilations() -> Iterator[None]:
    """The hook lets dynamo make more graphs than it does by itself, from then on."""
    name = recompile_limit()
    with torch._dynamo.config.patch({name: getattr(torch._dynamo.config, name)}):
        yield


def _same(one: nn.Module, two: nn.Module, images: torch.Tensor) -> None:
    """Names, codes and images are the same."""
    assert list(one.state_dict()) == list(two.state_dict())
    with torch.no_grad():
        (a, qa), (b, qb) = one.encode(images, 6), two.encode(images, 6)
        assert torch.equal(a.group, b.group) and torch.equal(qa.index, qb.index)
        image_a = one.decode(qa.codes, a.group, a.grid)[0]
        image_b = two.decode(qb.codes, b.group, b.grid)[0]
    torch.testing.assert_close(image_a, image_b, rtol=1e-4, atol=1e-5)


def test_channels_last() -> None:
    model = tiny.build_model().eval()
    turned = prepare(copy.deepcopy(model), channels_last=True)
    _same(model, turned, torch.rand(2, 3, 8, 8) * 2 - 1)
    kernels = [p for p in turned.parameters() if p.dim() == 4]
    last = torch.channels_last
    assert kernels and all(p.is_contiguous(memory_format=last) for p in kernels)


def test_compiled_in_place() -> None:
    """Two K, each with its graph; the weights keep their names."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph)
        return graph.forward

    model = tiny.build_model().eval()
    compiled = prepare(
        copy.deepcopy(model), dict(backend=backend), ['backbone', 'decoder', 'nobody']
    )
    _same(model, compiled, torch.rand(2, 3, 8, 8) * 2 - 1)
    first = len(graphs)
    assert first >= 2
    with torch.no_grad():
        compiled.encode(torch.rand(2, 3, 8, 8), 9)
        assert len(graphs) > first
        found = copy.deepcopy(compiled).state_dict()
    assert list(found) == list(model.state_dict())


def test_hook_prepares_training_and_test() -> None:
    from types import SimpleNamespace

    for name in ('before_train', 'before_test'):
        model = tiny.build_model()
        hook = SpeedHook(compile=dict(backend='eager'), channels_last=True)
        getattr(hook, name)(SimpleNamespace(model=model))
        for part in ('backbone', 'decoder', 'discriminator'):
            assert getattr(model, part)._compiled_call_impl is not None
        assert model.neck._compiled_call_impl is None


def test_blocks_as_graphs() -> None:
    """Off a GPU all stays as it is; on one the hook lets the encoder be captured."""
    from types import SimpleNamespace

    model = tiny.build_model().eval()
    graphed = copy.deepcopy(model)
    SpeedHook(graph=True).before_test(SimpleNamespace(model=graphed))
    assert isinstance(graphed.backbone.encode_embedded, GraphedMethod)
    for _ in range(3):
        _same(model, graphed, torch.rand(2, 3, 8, 8) * 2 - 1)
    assert not graphed.backbone.encode_embedded.recordings


def test_hook_refuses() -> None:
    with pytest.raises(ValueError, match='switch one on'):
        SpeedHook()
    with pytest.raises(ValueError, match="parts=\\['head2'\\] of SpeedHook name"):
        prepare(tiny.build_model(), True, ['head2'])


def test_bf16_trains_on_a_cpu() -> None:
    """Convolutions run in bfloat16, weights and gradients stay in float32."""
    model = tiny.build_model()
    seen = []
    model.decoder.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    sides = {
        'generator': nn.ModuleDict(model.generator_parts()),
        'discriminator': model.discriminator,
    }
    before = tiny.clone_state(model)
    optimizers = OptimWrapperDict(
        **{
            name: Bf16OptimWrapper(torch.optim.Adam(side.parameters(), lr=1e-3))
            for name, side in sides.items()
        }
    )
    log = model.train_step(tiny.batch(), optimizers)
    assert seen == [torch.bfloat16]
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in log.values())
    kernel = 'decoder.conv_in.weight'
    kernel = kernel if kernel in before else next(k for k in before if 'decoder' in k)
    assert model.state_dict()[kernel].dtype == torch.float32
    assert not torch.equal(model.state_dict()[kernel], before[kernel])


def channels_last_rank(rank: int, folder: str) -> None:
    """Three steps of DDP, the module converted before it by the runner, and behind."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    for early in (True, False):
        conv = nn.Conv2d(8, 16, 3)
        conv = prepare(conv, channels_last=True) if early else conv
        ddp = nn.parallel.DistributedDataParallel(conv)
        prepare(ddp, channels_last=True)
        images = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
        for step in range(3):
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter('always')
                ddp(images).sum().backward()
            text = 'bucket view strides'
            strided = [one for one in found if text in str(one.message)]
            assert len(strided) == (step == 0 and not early), (early, step)
            ddp.zero_grad()
        del ddp  # the wrapper keeps the group's threads alive
    end_process_group()


def test_the_runner_turns_layouts_before_it_wraps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def wrap_model(runner: Runner, cfg: None, model: nn.Module) -> nn.Module:
        last = torch.channels_last
        seen.append(model.weight.is_contiguous(memory_format=last))
        return model

    monkeypatch.setattr(Runner, 'wrap_model', wrap_model)
    on = dict(type='mergevq_mm.SpeedHook', channels_last=True)
    for hooks in (
        dict(default_hooks=dict(speed=on, timer=None)),
        dict(custom_hooks=[dict(type='SpeedHook', channels_last=True)]),
        dict(custom_hooks=[dict(on, channels_last=False, compile=True)]),
        {},
    ):
        runner = QuietRunner.__new__(QuietRunner)
        runner.cfg = Config(hooks)
        runner.wrap_model(None, nn.Conv2d(8, 16, 3))
    assert seen == [True, True, False, False]


@pytest.mark.slow
def test_ddp_lays_out_its_buckets_anew_after_the_first_step(tmp_path: Path) -> None:
    run_ranks(channels_last_rank, (str(tmp_path),))
