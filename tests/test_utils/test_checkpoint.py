"""Weights: what fits is loaded under any usual prefix, everything else refused."""

from __future__ import annotations

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mergevq_mm.utils import checkpoint as ckpt


def make_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    'rename',
    [
        lambda k: k,
        lambda k: f'module.{k}',
        lambda k: f'_orig_mod.module.{k}',
        lambda k: f'ema_model.{k}',
        lambda k: f'model.{k}',
        lambda k: k.replace('.', '.module.'),
    ],
)
@pytest.mark.parametrize('container', ['state_dict', 'model', None])
def test_prefixes_are_normalised(tmp_path, rename, container):
    source, target = make_net(), make_net()
    weights = {rename(k): v for k, v in source.state_dict().items()}
    torch.save({container: weights} if container else weights, tmp_path / 'a.pth')
    report = ckpt.load_pretrained(target, tmp_path / 'a.pth')
    assert len(report.matched) == 4 and not report.missing and not report.unexpected
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


@pytest.mark.parametrize(
    'stored', ['backbone.', 'module.backbone.', 'backbone.module.']
)
def test_prefix_selects_a_part(stored):
    source, target = make_net(), make_net()
    weights = {stored + k: v for k, v in source.state_dict().items()}
    weights['head.0.weight'] = torch.zeros(1)
    report = ckpt.load_pretrained(target, dict(state_dict=weights), prefix='backbone.')
    assert len(report.matched) == 4 and report.unexpected == []
    assert torch.equal(target[0].weight, source[0].weight)


def test_module_named_module_is_kept():
    source, target = nn.ModuleDict(dict(module=make_net())), None
    target = nn.ModuleDict(dict(module=make_net()))
    ckpt.load_pretrained(target, source.state_dict())
    assert torch.equal(target['module'][0].weight, source['module'][0].weight)


def test_too_few_keys_are_refused():
    net = make_net()
    before = net[0].weight.clone()
    foreign = dict(encoder=torch.ones(1), decoder=torch.ones(1))
    with pytest.raises(ValueError, match='fills 0 of the 4 keys') as error:
        ckpt.load_pretrained(net, foreign)
    text = str(error.value)
    assert '0.weight' in text and 'encoder' in text and '\n' not in text
    some = {'0.weight': torch.ones(4, 3)}
    with pytest.raises(ValueError, match='fills 1 of the 4 keys'):
        ckpt.load_pretrained(net, some)
    assert torch.equal(net[0].weight, before)
    report = ckpt.load_pretrained(net, some, min_matched=0.25)
    assert len(report.missing) == 3 and net[0].weight.sum().item() == 12


def test_wrong_prefix_is_refused():
    with pytest.raises(ValueError, match="prefix='nose.'"):
        ckpt.load_pretrained(make_net(), make_net().state_dict(), prefix='nose.')


def test_other_shape_is_refused():
    weights = make_net().state_dict()
    weights['0.weight'] = torch.ones(5, 3)
    with pytest.raises(ValueError, match='size mismatch for 0.weight') as error:
        ckpt.load_pretrained(make_net(), weights)
    assert '\n' not in str(error.value)


def test_module_may_adapt_tensors():
    """A pre-hook, as position embeddings use it, sees the checkpoint's tensor."""
    net = nn.Linear(2, 2)

    def resize(state_dict, prefix, *args):
        state_dict[f'{prefix}weight'] = state_dict[f'{prefix}weight'][:, :2]

    net._register_load_state_dict_pre_hook(resize)
    ckpt.load_pretrained(net, dict(weight=torch.ones(2, 5), bias=torch.zeros(2)))
    assert net.weight.tolist() == [[1, 1], [1, 1]]


def test_check_state_dict_matches_normalises_or_raises():
    net = make_net()
    content = dict(state_dict={f'module.{k}': v for k, v in net.state_dict().items()})
    ckpt.check_state_dict_matches(net, content)
    assert content['state_dict'].keys() == net.state_dict().keys()
    with pytest.raises(ValueError, match='fills none of the 4 keys of Sequential'):
        ckpt.check_state_dict_matches(net, dict(state_dict=dict(x=torch.ones(1))))


def test_a_whole_load_is_told_in_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(ckpt, 'print_log', lambda text, logger: told.append(text))
    whole = ckpt.LoadReport(matched=['a'], missing=[], unexpected=[])
    for loggers, number in (({}, 0), ({'mmengine': 1}, 0), ({'run_1': 1}, 1)):
        monkeypatch.setattr(MMLogger, '_instance_dict', loggers)
        ckpt._log_report(nn.Identity(), 'a.pth', whole)
        assert len(told) == number
    part = ckpt.LoadReport(matched=['a'], missing=['b'], unexpected=[])
    monkeypatch.setattr(MMLogger, '_instance_dict', {})
    ckpt._log_report(nn.Identity(), 'a.pth', part)
    assert told[-1] == 'Loaded 1 tensors from a.pth into Identity; 1 missing (b).'
