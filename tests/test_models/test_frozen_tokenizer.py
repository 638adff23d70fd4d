"""FrozenTokenizer: the codes and images of its MergeVQ, and nothing that trains."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from tiny_mergevq import BITS, LENGTH, SIZE, build_model, model_cfg
from torch import Tensor, nn

from mergevq_mm import Budget
from mergevq_mm.models import MergeVQ
from mergevq_mm.models.generators.tokenizer import FrozenTokenizer
from mergevq_mm.models.utils.group_map import first_occurrence
from mergevq_mm.registry import MODELS


class Owner(BaseModule):
    """A generator in small."""

    def __init__(self, tokenizer: FrozenTokenizer) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.tokenizer = tokenizer


@pytest.fixture(scope='module')
def model() -> MergeVQ:
    torch.manual_seed(7)
    return build_model().eval()


@pytest.fixture(scope='module')
def checkpoint(model: MergeVQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('tokenizer') / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def tokenizer(checkpoint: Path) -> FrozenTokenizer:
    return FrozenTokenizer(model_cfg(), str(checkpoint))


def images(number: int = 5, size: int = SIZE) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(number, 3, size, size, generator=rng) * 2 - 1


# ------------------------------------------------------------------ codes and images


@torch.no_grad()
def test_a_budget_gives_the_codes_of_its_model(model, tokenizer):
    x, budget = images(), Budget(mean=0.5)
    merged, quantized = model.encode(x, budget)
    found = tokenizer.encode(x, budget)
    assert found.keeps == merged.keeps
    assert sum(found.keeps) <= 8 * 5
    for i, one in enumerate(found):
        assert torch.equal(one.index, quantized[i].index)
        assert torch.equal(one.group, merged[i].group) and one.grid == merged[i].grid
    for keeps in (found.keeps, torch.tensor(found.keeps)):
        again = tokenizer.encode(x, keeps)
        assert all(torch.equal(a.index, b.index) for a, b in zip(again, found))
    assert tokenizer.candidates(budget) == [4, 5, 6, 7, 8, 9, 11, 12, 13, 16]
    index = found.map(lambda one: one.index)
    made = tokenizer.decode(index, complete=False)
    scores = index.map(tokenizer.source_scores)
    for i, one in enumerate(index):
        alone = tokenizer.decode(one, complete=False)
        torch.testing.assert_close(made[i : i + 1], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(scores[i], tokenizer.source_scores(one))
    with pytest.raises(ValueError, match=r'has a K for each image; map this over it'):
        tokenizer.source_scores(index)
    with pytest.raises(ValueError, match='does not fill a grid of 4x4'):
        tokenizer.decode(index)
    with pytest.raises(ValueError, match='images of 10x10 pixels do not fit'):
        tokenizer.encode(images(size=10), budget)


@torch.no_grad()
def test_the_size_of_images_may_stand_in_json(checkpoint, tokenizer):
    cfg = model_cfg()
    cfg['backbone']['img_size'] = [SIZE, SIZE]
    same = FrozenTokenizer(cfg, str(checkpoint))
    assert same.image_size == (SIZE, SIZE)
    assert torch.equal(same.encode(images(), 6).index, tokenizer.encode(images(), 6)[0])


@pytest.mark.parametrize('keep', [6, 9, 16, None])
@torch.no_grad()
def test_finds_the_codes_and_images_of_its_model(model, tokenizer, keep):
    x = images()
    merged, quantized = model.encode(x, keep)
    index, group, grid = tokenizer.encode(x, keep)
    assert torch.equal(index, quantized.index) and torch.equal(group, merged.group)
    assert grid == (4, 4) and index.shape == (5, keep or LENGTH)
    assert index.min() >= 0 and index.max() < 2**BITS

    made = tokenizer.decode(index.gather(1, group), grid, complete=True)
    assert torch.equal(made, model.decode(quantized.codes, group, grid)[0])
    made = tokenizer.decode(index, grid, complete=False)
    assert torch.equal(made, model.decode(quantized.codes, None, grid)[0])
    first = first_occurrence(group, index.shape[1])
    made = tokenizer.decode(index, grid, complete=False, first=first)
    found, _ = model.decode(quantized.codes, None, grid, first=first)
    assert torch.equal(made, found)


@torch.no_grad()
def test_several_numbers_of_tokens_run_the_stem_once(tokenizer):
    x, calls = images(), []
    parts = tokenizer._ready()
    with parts.backbone.stem.register_forward_hook(lambda *_: calls.append(1)):
        found = tokenizer.encode_each(x, [6, 16, None])
    assert len(calls) == 1
    for keep, together in zip([6, 16, None], found, strict=True):
        alone = tokenizer.encode(x, keep)
        assert torch.equal(together.index, alone.index)
        assert torch.equal(together.group, alone.group) and together.grid == alone.grid


@torch.no_grad()
def test_groups_are_numbered_by_their_first_position(tokenizer):
    _, group, _ = tokenizer.encode(images(), 6)
    for row in group.tolist():
        assert list(dict.fromkeys(row)) == list(range(6))


@torch.no_grad()
def test_decodes_other_grids(model, tokenizer):
    index = torch.arange(6).reshape(1, 6)
    codes = model.quantizer.index_to_codes(index)
    expected = model.decoder(codes, (2, 3))
    assert torch.equal(tokenizer.decode(index, (2, 3)), expected)
    assert expected.shape == (1, 3, 4, 6)


@torch.no_grad()
def test_computes_in_float32_under_autocast(tokenizer):
    index, group, grid = tokenizer.encode(images(), 9)
    raster = index.gather(1, group)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        again = tokenizer.encode(images(), 9)
        made = tokenizer.decode(raster)
        places = tokenizer.decode(index, complete=False)
    assert torch.equal(again.index, index) and torch.equal(again.group, group)
    assert made.dtype == torch.float32 and torch.equal(made, tokenizer.decode(raster))
    assert torch.equal(places, tokenizer.decode(index, complete=False))


# ------------------------------------------------------------------ what it consists of


def test_builds_four_parts_and_says_what_it_is_without_weights(tmp_path):
    model = model_cfg(head=dict(type='nowhere.NoHead'), discriminator=dict(type='No'))
    lazy = FrozenTokenizer(model, str(tmp_path / 'later.pth'))
    assert (lazy.grid, lazy.length, lazy.stride) == ((4, 4), 16, 2)
    assert (lazy.bits, lazy.split, lazy.image_size) == (6, (2, 4), (8, 8))
    assert lazy.learned_recovery
    with pytest.raises(FileNotFoundError, match='later.pth'):
        lazy.init_weights()
    unlearned = model_cfg(neck=dict(type='mergevq_mm.GroupMapRecovery'))
    assert not FrozenTokenizer(unlearned, random_init=True).learned_recovery
    ready = FrozenTokenizer(model, random_init=True)
    names = [name for name, _ in ready.network.named_children()]
    assert names == ['backbone', 'quantizer', 'neck', 'decoder']


def test_construction_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    FrozenTokenizer(model_cfg(), random_init=True).init_weights()
    assert torch.equal(torch.rand(2), expected)


def test_owner_neither_trains_nor_saves_nor_copies_it(tokenizer):
    owner = Owner(tokenizer)
    owner.init_weights()
    assert set(owner.state_dict()) == {'own.weight', 'own.bias'}
    assert {name for name, _ in owner.named_parameters()} == {'own.weight', 'own.bias'}
    assert list(tokenizer.parameters()) == []
    owner.train()
    assert not any(part.training for part in tokenizer.network.modules())
    assert not any(p.requires_grad for p in tokenizer.network.parameters())
    assert copy.deepcopy(owner).tokenizer.network is tokenizer.network
    owner.load_state_dict(owner.state_dict(), strict=True)


def test_follows_its_owner_to_a_type_and_a_device(tokenizer):
    owner = Owner(tokenizer)
    owner.double()
    with torch.no_grad():
        encoded = tokenizer.encode(images().double(), 9)
        assert tokenizer.decode(encoded.index, complete=False).dtype == torch.float64
    owner.to('meta')
    weight = tokenizer.network.decoder.conv_out.weight
    assert weight.dtype == torch.float64 and weight.device.type == 'meta'


def test_is_built_by_the_registry_from_a_config_file(model, checkpoint, tmp_path):
    file = tmp_path / 'tiny.py'
    Config(dict(model=model_cfg())).dump(str(file))
    cfg = dict(
        type='mergevq_mm.FrozenTokenizer', model=str(file), checkpoint=str(checkpoint)
    )
    index = MODELS.build(cfg).encode(images(), 9).index
    assert torch.equal(index, model.encode(images(), 9)[1].index)


# ------------------------------------------------------------------------ fingerprint


def test_fingerprint_is_of_the_weights(model, checkpoint, tokenizer, tmp_path):
    expected = tokenizer.fingerprint()
    assert len(expected) == 64 and int(expected, 16)
    # Another file, other values beside the four parts, keys of a wrapper.
    state = {f'module.{k}': v for k, v in model.state_dict().items()}
    state['module.head.alignment.projector.0.bias'] = torch.zeros(16)
    torch.save(state, tmp_path / 'other.pth')
    again = FrozenTokenizer(model_cfg(), str(tmp_path / 'other.pth'))
    assert again.fingerprint() == expected


@pytest.mark.parametrize(
    'name',
    [
        'backbone.stem.conv_in.weight',
        'quantizer.projection.linear.bias',
        'neck.key.weight',
        'decoder.conv_out.bias',
    ],
)
def test_fingerprint_changes_with_one_weight(tokenizer, name):
    before = tokenizer.fingerprint()
    weight = tokenizer.network.get_parameter(name)
    weight.view(-1)[0] += 1e-6
    assert tokenizer.fingerprint() != before


def test_fingerprint_tells_split_and_schedule_apart(checkpoint):
    prints = set()
    for split in ((2, 4), (3, 3)):
        for schedule in ('linear', 'constant'):
            cfg = model_cfg()
            cfg['quantizer']['split'] = split
            cfg['backbone']['schedule'] = schedule
            prints.add(FrozenTokenizer(cfg, str(checkpoint)).fingerprint())
    assert len(prints) == 4


# --------------------------------------------------------------------------- bad input


def test_refuses_what_is_no_tokenizer(tmp_path):
    with pytest.raises(ValueError, match='checkpoint=None .* random_init=True'):
        FrozenTokenizer(model_cfg())
    with pytest.raises(ValueError, match='lacks quantizer, neck, decoder; give'):
        FrozenTokenizer(dict(backbone=dict(type='X')), 'x.pth')
    (tmp_path / 'none.py').write_text('a = 1')
    with pytest.raises(ValueError, match='none.py" of a tokenizer lacks backbone'):
        FrozenTokenizer(str(tmp_path / 'none.py'), 'x.pth')
    with pytest.raises(FileNotFoundError, match='nowhere.py'):
        FrozenTokenizer('nowhere.py', 'x.pth')


def test_refuses_a_checkpoint_that_lacks_a_weight_or_has_another_size(model, tmp_path):
    state = model.state_dict()
    del state['decoder.conv_out.bias']
    torch.save(state, tmp_path / 'less.pth')
    with pytest.raises(ValueError, match='less.pth" fills .* give another checkpoint'):
        FrozenTokenizer(model_cfg(), str(tmp_path / 'less.pth')).init_weights()
    torch.save(model.state_dict(), tmp_path / 'whole.pth')
    wider = model_cfg()
    wider['decoder']['base_channels'] = 16
    with pytest.raises(ValueError, match='size mismatch .* same architecture'):
        FrozenTokenizer(wider, str(tmp_path / 'whole.pth')).init_weights()


def test_refuses_images_and_codes_that_do_not_fit(tokenizer):
    with pytest.raises(ValueError, match='10x10 pixels .* of 8x8; resize'):
        tokenizer.encode(images(size=10), 9)
    with pytest.raises(ValueError, match='keep=17 lies outside'):
        tokenizer.encode(images(), 17)
    codes = torch.zeros(1, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match='index of 9 codes .* grid of 4x4; give 16'):
        tokenizer.decode(codes)
    with pytest.raises(ValueError, match='in .0, 64. .* are not those of 64 codes'):
        tokenizer.decode(codes.index_fill(1, torch.tensor([3]), 64), complete=False)
    for shape in ((16,), (1, 17), (1, 0), (1, 4, 4)):
        wrong = torch.zeros(shape, dtype=torch.int64)
        with pytest.raises(ValueError, match='K from 1 to the 16 positions'):
            tokenizer.decode(wrong, complete=False)
    unlearned = model_cfg(neck=dict(type='mergevq_mm.GroupMapRecovery'))
    with pytest.raises(ValueError, match='complete=False .*SourceRecovery'):
        FrozenTokenizer(unlearned, random_init=True).decode(codes, complete=False)
    first = torch.arange(9)[None].flip(1)
    with pytest.raises(ValueError, match='of image 0 are not the first places'):
        tokenizer.decode(codes, complete=False, first=first)
