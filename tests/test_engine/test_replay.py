"""A step that was not finite: written once, repeated to the bit, its cause named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from tiny_generator import FakeCodes, FakeGenerator, build
from tiny_mergevq import batch, build_model, model_cfg, optimizers
from torch import Tensor, nn
from torch.utils.data import default_collate

from mergevq_mm.engine import bad_step
from mergevq_mm.engine.bad_step import pack, unpack
from mergevq_mm.engine.first_bad_module import watching
from mergevq_mm.engine.hooks import NaNGuardHook
from mergevq_mm.engine.replay import read_record, replay

ITERATION = 7


def run_of(
    model: nn.Module,
    wrappers: OptimWrapper | OptimWrapperDict,
    folder: Path,
    model_config: dict | None = None,
) -> SimpleNamespace:
    """What the hook sees of a runner, at iteration 7."""
    hub = MessageHub.get_instance(f'replay_{folder.name}_{id(model)}')
    hub.update_info('iter', ITERATION)
    config = {'model': model_config, 'default_scope': 'mmpretrain'}
    return SimpleNamespace(
        model=model,
        optim_wrapper=wrappers,
        work_dir=str(folder),
        cfg=Config(config if model_config else {}),
        iter=ITERATION,
        max_iters=20,
    )


def step(run: SimpleNamespace, hook: NaNGuardHook, data: dict) -> dict[str, Tensor]:
    """A training step, as the runner makes it."""
    hook.before_train_iter(run, 0, data)
    log = run.model.train_step(data, run.optim_wrapper)
    hook.after_train_iter(run, 0, data, log)
    return log


def spoilt_tokenizer() -> tuple[nn.Module, dict]:
    """A tokenizer, some of whose layers are dropped at random, that overflows."""
    config = model_cfg()
    config['backbone']['drop_path_rate'] = 0.5
    model = build_model(backbone=config['backbone'])
    with torch.no_grad():
        model.decoder.conv_out.weight.fill_(3e38)
    return model, config


def load_tool() -> ModuleType:
    path = Path(__file__).parents[2] / 'tools' / 'replay.py'
    spec = importlib.util.spec_from_file_location('replay_tool', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The file of a bad step of stage 1, and what the step returned."""
    folder = tmp_path_factory.mktemp('run')
    torch.manual_seed(0)
    model, config = spoilt_tokenizer()
    run = run_of(model, optimizers(model), folder, config)
    log = step(run, NaNGuardHook(), batch())
    (path,) = folder.iterdir()
    return path, log


def test_stage_1_is_repeated(
    recorded: tuple[Path, dict], capsys: pytest.CaptureFixture
) -> None:
    """By the tool: the losses that are finite are equal to the last bit."""
    path, log = recorded
    assert path.name == 'bad_step_8.pt' and log['nonfinite'] == 1
    tool = load_tool()
    torch.manual_seed(99)
    with pytest.raises(SystemExit) as end:
        tool.main([str(path)])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert 'Iteration 8, process 1 of 1, 1 batch, on cpu' in printed
    assert 'First output that is not finite: decoder.conv_out (Conv2d)' in printed
    assert log['loss_entropy'].isfinite()
    for name in ('loss_entropy', 'loss_commit', 'loss_align', 'loss_source'):
        value = log[name].item()
        assert f'  {name}: {value:.9g}, in the run {value}' in printed, name


def test_other_random_numbers_are_another_step(recorded: tuple[Path, dict]) -> None:
    record, found = read_record(recorded[0]), set()
    for seed in range(4):
        record['batches'][0]['rng']['torch'] = (
            torch.Generator().manual_seed(seed).get_state()
        )
        replayed = replay(record, spoilt_tokenizer()[0])
        assert replayed.nonfinite
        found.add(replayed.losses['loss_align'])
    assert len(found) > 1


class Root(nn.Module):
    """The square root, whose gradient at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class RootGenerator(FakeGenerator):
    """Its loss is finite, its gradient is not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.root = Root()

    def loss_codes(self, batch: Any) -> dict[str, Tensor]:
        value = self.dropout(batch.index.float()).mean().reshape(1, 1)
        return {'loss_code': self.root(self.scale(value) * 0).sum() + value.sum()}


def generator_run(folder: Path, accumulate: int = 1) -> SimpleNamespace:
    model = build(type=RootGenerator).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=accumulate)
    return run_of(model, wrapper, folder)


def codes() -> dict:
    data = FakeCodes([4, 9, 16], 16, 6)
    items = [data[i] for i in range(2)]
    return dict(
        inputs=default_collate([item['inputs'] for item in items]),
        data_samples=[item['data_samples'] for item in items],
    )


def test_stage_2_with_a_gradient(tmp_path: Path) -> None:
    run = generator_run(tmp_path)
    log = step(run, NaNGuardHook(), codes())
    assert log['nonfinite'] == 1 and log['loss'].isfinite()
    record = read_record(tmp_path / 'bad_step_8.pt')
    found = replay(record, build(type=RootGenerator))
    assert found.nonfinite and found.output is None
    assert (
        found.losses
        == record['losses']
        == {
            'loss': log['loss'].item(),
            'loss_code': log['loss_code'].item(),
        }
    )
    assert found.cause().startswith('All losses are finite. First gradient that is not')
    assert 'the output of scale (Linear)' in found.gradient
    assert 'of the output of root (Root), was finite' in found.gradient


def test_all_batches_of_an_optimizer_step(tmp_path: Path) -> None:
    run, hook = generator_run(tmp_path, accumulate=2), NaNGuardHook()
    run.model.root = nn.Identity()
    for _ in range(2):
        step(run, hook, codes())
    run.model.root = Root()
    assert not list(tmp_path.iterdir())
    first = step(run, hook, codes())
    assert first['nonfinite'] == 0 and not list(tmp_path.iterdir())
    step(run, hook, codes())
    record = read_record(tmp_path / 'bad_step_8.pt')
    assert len(record['batches']) == 2
    assert replay(record, build(type=RootGenerator)).nonfinite


def test_once_in_a_folder(tmp_path: Path) -> None:
    run = generator_run(tmp_path)
    hook = NaNGuardHook()
    for _ in range(2):
        step(run, hook, codes())
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    run.iter += 1
    step(run, NaNGuardHook(), codes())  # a second start of the run
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_no_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = generator_run(tmp_path)
    run.model.scale = nn.Linear(1, 1000, bias=False)  # 4 kB
    run.optim_wrapper.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    recorder = bad_step.StepRecorder()
    recorder.begin(run, codes())
    rest = recorder._record(run, {}, {})
    size = bad_step.size_of({k: v for k, v in rest.items() if k != 'weights'})
    monkeypatch.setattr(bad_step, 'LIMIT', size + 3999)
    note = recorder.write(run, {}, {})
    assert 'do not fit' in note and 'last checkpoint' in note
    (path,) = tmp_path.iterdir()
    assert read_record(path)['weights'] is None
    path.unlink()
    monkeypatch.setattr(bad_step, 'LIMIT', size - 1)
    assert 'not written: its batch takes' in recorder.write(run, {}, {})
    assert not list(tmp_path.iterdir())


def test_of_several_processes_those_write_whose_loss_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = generator_run(tmp_path)
    recorder = bad_step.StepRecorder()
    recorder.begin(run, codes())
    monkeypatch.setattr(bad_step, 'get_world_size', lambda: 3)
    for told, writers in (
        ([(False, False), (True, False), (False, False)], [1]),
        ([(False, False)] * 3, [0, 1, 2]),  # a gradient: of all of them
        ([(False, True), (True, False), (False, False)], []),
    ):
        monkeypatch.setattr(bad_step, 'all_gather_object', lambda own, told=told: told)
        for rank in range(3):
            monkeypatch.setattr(bad_step, 'get_rank', lambda rank=rank: rank)
            recorder.write(run, {}, {})
        found = {path.name for path in tmp_path.iterdir()}
        assert found == {f'bad_step_8_rank{rank}.pt' for rank in writers}
        for path in tmp_path.iterdir():
            path.unlink()


def test_weights_of_a_checkpoint(recorded: tuple[Path, dict], tmp_path: Path) -> None:
    """Those that the training goes on with, where the file has no room for its own."""
    tool, record = load_tool(), read_record(recorded[0])
    own, record['weights'] = record['weights'], None
    with pytest.raises(ValueError, match='give --weights'):
        tool.complete_weights(record, None)
    name = 'decoder.conv_out.weight'
    saved = {'state_dict': {**own, name: torch.zeros_like(own[name])}}
    saved['ema_state_dict'] = {f'module.{name}': own[name], 'steps': torch.tensor(3)}
    torch.save(saved, tmp_path / 'epoch_1.pth')
    record['checkpoint'] = str(tmp_path / 'epoch_1.pth')
    assert tool.complete_weights(record, None) == record['checkpoint']
    assert all(torch.equal(record['weights'][key], own[key]) for key in own)
    record['weights'].popitem()
    with pytest.raises(ValueError, match='the weights do not fit the model'):
        replay(record, spoilt_tokenizer()[0])


def test_foreign_and_later_files(tmp_path: Path) -> None:
    path = tmp_path / 'bad_step_1.pt'
    torch.save({'weights': {}}, path)
    with pytest.raises(ValueError, match='is no file of a bad step'):
        read_record(path)
    torch.save({'batches': [], 'format': 99, 'version': '7.0'}, path)
    with pytest.raises(ValueError, match='format 99, of mergevq_mm 7.0; .* up to 1'):
        read_record(path)


def test_samples_come_back() -> None:
    data = batch()
    data['data_samples'][0].set_field('a/b.png', 'img_path', field_type='metainfo')
    found = unpack(pack(data))
    assert found['data_samples'][0].img_path == 'a/b.png'
    assert found['data_samples'][1].gt_label.tolist() == [1]
    assert all(map(torch.equal, found['inputs'], data['inputs']))


def test_the_module_inside_is_named_and_its_maker() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.helpers = [nn.ReLU()]  # hidden, as frozen networks are

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.helpers[0](x) / 0)

    model = nn.Sequential(nn.Identity(), Outer())
    with watching(model) as watch:
        model(torch.zeros(1, 2))  # 0 / 0
    assert watch.output == (
        '1.inner (Linear): 2 of 2 values are NaN; so was its input, which 1 (Outer) '
        'has made'
    )
    assert watch.name(model[1].helpers[0]) == '1.helpers (ReLU)'
    with watching(model) as watch:
        model(torch.full((1, 2), float('inf')))
    assert watch.output.startswith('0 (Identity): 2 of 2 values are infinite')
