"""What ``load_from``, a test and resuming do with weights that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor, BaseModel, BaseTTAModel
from mmengine.runner import Runner
from torch import nn
from toy_run import Toy, make_runner

from mergevq_mm.engine.hooks import RunStateHook


class Sized(Toy):
    """The toy in any width and depth."""

    def __init__(self, width: int = 8, layers: int = 1) -> None:
        super().__init__()
        middle = [nn.Linear(width, width) for _ in range(layers)]
        self.net = nn.Sequential(nn.Linear(4, width), *middle, nn.Linear(width, 1))


class Headed(Sized):
    """With a head of which stage 1 knows nothing, and what only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.discriminator = nn.Linear(2, 2)


class Adaptive(Sized):
    """Fits the first layer to its own number of inputs, as position embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0] = nn.Linear(2, 8)
        self._register_load_state_dict_pre_hook(self._fit)

    @staticmethod
    def _fit(state_dict: dict, prefix: str, *args: object) -> None:
        name = f'{prefix}net.0.weight'
        state_dict[name] = state_dict[name][:, :2]


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A checkpoint of the smallest model."""
    path = str(tmp_path / 'small.pth')
    torch.save(dict(state_dict=Sized().state_dict(), meta={}), path)
    return path


def load(folder: Path, model: Toy, path: str, train: bool, **kwargs: object) -> Runner:
    runner = make_runner(folder / 'run', model=model, load_from=path, **kwargs)
    if train:
        runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.load_or_resume()
    return runner


@pytest.mark.parametrize('train', [True, False])
def test_another_width(tmp_path: Path, saved: str, train: bool) -> None:
    message = (
        r'The checkpoint does not fit Sized: size mismatch for net.0.weight: .*'
        r'\[8, 4\].*\[16, 4\]\); give one of the same architecture'
    )
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, Sized(width=16), saved, train)
    assert '\n' not in str(error.value)


def test_another_depth_in_a_test(tmp_path: Path, saved: str) -> None:
    # Layer 2 of three is none of one: another shape. Without it a key is missing.
    with pytest.raises(ValueError, match=r'size mismatch for net.2.weight'):
        load(tmp_path, Sized(layers=3), saved, train=False)
    state = Sized().state_dict()
    del state['net.1.weight']
    torch.save(dict(state_dict=state, meta={}), saved)
    message = r'lacks 1 of the 6 keys of Sized \(net.1.weight\), which would stay rand'
    with pytest.raises(ValueError, match=message):
        load(tmp_path, Sized(), saved, train=False)


def test_a_new_head_is_trained_but_not_tested(tmp_path: Path, saved: str) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    runner = make_runner(tmp_path / 'run', model=Headed(), load_from=saved)
    keep = Keep(logging.WARNING)
    MMLogger.get_current_instance().addHandler(keep)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.load_or_resume()
    MMLogger.get_current_instance().removeHandler(keep)
    (text,) = [r.getMessage() for r in records if ' lacks ' in r.getMessage()]
    assert 'lacks 4 of the 10 keys of Headed (head.weight, head.bias' in text
    weights = torch.load(saved, weights_only=True)['state_dict']
    for name, value in weights.items():
        assert torch.equal(runner.model.state_dict()[name], value)
    # In a test the head is needed, and the discriminator is not.
    with pytest.raises(ValueError, match=r'lacks 2 of the 10 keys .*head.weight'):
        load(tmp_path, Headed(), saved, train=False)
    state = Headed().state_dict()
    whole = {k: v for k, v in state.items() if not k.startswith('discriminator')}
    torch.save(dict(state_dict=whole, meta={}), saved)
    tested = load(tmp_path, Headed(), saved, train=False)
    assert torch.equal(tested.model.head.weight, state['head.weight'])


@pytest.mark.parametrize('train', [True, False])
def test_what_the_module_adapts_is_no_misfit(
    tmp_path: Path, saved: str, train: bool
) -> None:
    runner = load(tmp_path, Adaptive(), saved, train)
    weights = torch.load(saved, weights_only=True)['state_dict']
    assert torch.equal(runner.model.net[0].weight, weights['net.0.weight'][:, :2])


def test_resuming_is_strict(tmp_path: Path) -> None:
    make_runner(tmp_path / 'first', model=Sized(), epochs=1).train()
    whole = str(tmp_path / 'first' / 'epoch_1.pth')
    for model in (Sized(width=16), Headed()):
        with pytest.raises(ValueError, match='does not fit'):
            load(tmp_path, model, whole, train=True, resume=True)


def test_augmented_tests_load_the_model_inside() -> None:
    """``tools/test.py --tta``: mmengine fills the module of a BaseTTAModel."""

    class Net(BaseModel):
        def __init__(self) -> None:
            super().__init__(BaseDataPreprocessor())
            self.net = torch.nn.Linear(2, 1)

        def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> torch.Tensor:
            return self.net(inputs)

    class Flips(BaseTTAModel):
        def merge_preds(self, data_samples_list: list) -> list:
            return data_samples_list

    runner = SimpleNamespace(model=Flips(Net()), _resume=False, _train_loop=None)
    hook = RunStateHook()
    weights = Net().state_dict()
    hook.after_load_checkpoint(runner, dict(state_dict=weights))
    weights.pop('net.bias')
    with pytest.raises(ValueError, match='lacks 1 of the 2 keys of Net'):
        hook.after_load_checkpoint(runner, dict(state_dict=weights))
