"""Blocks of a DINOv2, CLIP or MAE ViT in a smaller encoder, value by value."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from mergevq_mm.models.backbones import MergeVQEncoder
from mergevq_mm.registry import MODELS
from mergevq_mm.utils.weight_selection import (
    WeightSelection,
    even_indices,
    select_blocks,
    translate,
)

# 16 of 24 is no whole stride, 12 of 24 is one.
WIDE, DEEP = 24, 3


def encoder(dim: int = 16, layers: int = 2, **kwargs: object) -> MergeVQEncoder:
    arch = dict(
        stem='patch', embed_dims=dim, patch_size=4, num_layers=layers, num_heads=2
    )
    return MODELS.build(
        dict(type='mergevq_mm.MergeVQEncoder', arch=arch, img_size=16, **kwargs)
    )


def timm_vit(kind: str) -> dict[str, Tensor]:
    """A randomly initialised small one in the layout of a published one."""
    name = {
        'dinov2': 'vit_base_patch14_dinov2',
        'clip': 'vit_base_patch16_clip_224',
        'mae': 'vit_base_patch16_224',
    }[kind]
    model = timm.create_model(name, embed_dim=WIDE, depth=DEEP, num_heads=4)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    state = model.state_dict()
    if kind == 'mae':  # its files have a decoder, too, of the same layout
        state['decoder_blocks.0.attn.qkv.weight'] = torch.ones(3 * WIDE, WIDE)
    return state


def mmpretrain_vit(kind: str) -> dict[str, Tensor]:
    arch = dict(
        embed_dims=WIDE, num_layers=DEEP, num_heads=4, feedforward_channels=4 * WIDE
    )
    scale = dict(layer_scale_init_value=1e-5) if kind == 'dinov2' else {}
    if kind == 'clip':
        scale = dict(pre_norm=True)
    config = dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=32, **scale)
    model = MODELS.build(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return {'backbone.' + name: value for name, value in model.state_dict().items()}


def slow_indices(source: int, target: int) -> list[int]:
    if source % target == 0:
        return [i * (source // target) for i in range(target)]
    return [round(i * (source - 1) / (target - 1)) for i in range(target)]


def slow_select(tensor: Tensor, shape: tuple[int, ...], fused: bool) -> Tensor:
    """Element by element."""
    parts = 3 if fused else 1
    have = tensor.shape[0] // parts
    rows = [
        part * have + i
        for part in range(parts)
        for i in slow_indices(have, shape[0] // parts)
    ]
    out = torch.empty(shape)
    if len(shape) == 1:
        for i, row in enumerate(rows):
            out[i] = tensor[row]
        return out
    columns = slow_indices(tensor.shape[1], shape[1])
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            out[i, j] = tensor[row, column]
    return out


# ------------------------------------------------------------------------ values


@pytest.mark.parametrize('dim', [16, 12, 24])
@pytest.mark.parametrize('kind', ['dinov2', 'clip', 'mae'])
@pytest.mark.parametrize('library', ['timm', 'mmpretrain'])
def test_values_by_a_slow_loop(
    library: str, kind: str, dim: int, tmp_path: Path
) -> None:
    source = timm_vit(kind) if library == 'timm' else mmpretrain_vit(kind)
    torch.save({'state_dict': source}, tmp_path / 'vit.pth')
    cfg = dict(type='mergevq_mm.WeightSelection', checkpoint=str(tmp_path / 'vit.pth'))
    model = encoder(dim, init_cfg=cfg, layer_scale=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.init_weights()
    after = model.state_dict()
    prefix = 'backbone.' if library == 'mmpretrain' else ''
    names = {translate(name): name for name in source}
    cls = source[prefix + 'cls_token'][0, 0]
    expected = torch.stack([cls[i] for i in slow_indices(WIDE, dim)])
    assert torch.equal(after['cls_token'][0, 0], expected)
    changed = {'cls_token'}
    for name, value in after.items():
        if not name.startswith('layers.') or name not in names:
            continue
        theirs = source[names[name]]
        right = slow_select(theirs, tuple(value.shape), '.qkv.' in name)
        assert torch.equal(value, right), name
        changed.add(name)
    per_block = 14 if kind == 'dinov2' else 12
    assert len(changed) == 1 + 2 * per_block
    for name in set(after) - changed:  # stem, position embedding, and LayerScale
        assert torch.equal(after[name], before[name]), name
        assert kind != 'dinov2' or not name.startswith('layers.')


def test_queries_keys_and_values_do_not_mix() -> None:
    """Rows 0.. are queries, 100.. keys, 200.. values."""
    rows = torch.cat([torch.arange(24) + 100 * part for part in range(3)]).float()
    target = {'layers.0.attn.qkv.bias': torch.empty(48)}
    picked = select_blocks({'blocks.0.attn.qkv.bias': rows}, target)
    q, k, v = picked['layers.0.attn.qkv.bias'].chunk(3)
    assert q.tolist() == [float(i) for i in slow_indices(24, 16)]
    assert torch.equal(k, q + 100) and torch.equal(v, q + 200)


def test_indices_of_the_paper() -> None:
    assert even_indices(768, 384).tolist() == list(range(0, 768, 2))
    chosen = even_indices(768, 512)  # ViT-B to the width of d64
    assert chosen.tolist() == slow_indices(768, 512)
    assert chosen[0] == 0 and chosen[-1] == 767
    assert (chosen.diff() > 0).all() and chosen.diff().max() == 2
    assert even_indices(5, 1).tolist() == [0] and even_indices(4, 4).tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_a_shorter_source_leaves_the_later_blocks(tmp_path: Path) -> None:
    torch.save(timm_vit('dinov2'), tmp_path / 'vit.pth')
    model = encoder(16, layers=DEEP + 1)
    before = model.layers[DEEP].attn.qkv.weight.clone()
    select = WeightSelection(tmp_path / 'vit.pth')
    select(model)
    assert torch.equal(model.layers[DEEP].attn.qkv.weight, before)
    report = select.report
    assert len(report.matched) == 1 + DEEP * 14 and len(report.missing) == 14
    assert {name.split('.')[1] for name in report.missing} == {str(DEEP)}
    assert {'norm.weight', 'pos_embed'} <= set(report.unexpected)


# ------------------------------------------------------------------------- in a model


def test_it_reports_what_it_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    monkeypatch.setattr(
        'mergevq_mm.utils.weight_selection.print_log',
        lambda text, **kwargs: lines.append(text),
    )
    torch.save(timm_vit('clip'), tmp_path / 'vit.pth')
    WeightSelection(str(tmp_path / 'vit.pth'))(encoder())
    (line,) = lines
    assert 'filled 25 of 29 tensors of blocks and class token' in line
    assert 'not in it: layers.*.ls*.gamma' in line
    assert logging.getLogger()  # nothing else was touched


def test_a_whole_tokenizer_is_initialised(tmp_path: Path) -> None:
    """By the runner's way, and no part draws new weights over it afterwards."""
    import tiny_mergevq as tiny

    source = timm_vit('dinov2')
    torch.save(source, tmp_path / 'vit.pth')
    cfg = tiny.model_cfg()
    cfg['backbone']['init_cfg'] = dict(
        type='mergevq_mm.WeightSelection', checkpoint=str(tmp_path / 'vit.pth')
    )
    model = MODELS.build(cfg)
    model.init_weights()
    value = model.backbone.layers[1].mlp.fc2.weight
    right = slow_select(source['blocks.1.mlp.fc2.weight'], tuple(value.shape), False)
    assert torch.equal(value, right)


# --------------------------------------------------------------------------- bad input


def test_files_that_fill_nothing(tmp_path: Path) -> None:
    for number, state in enumerate(
        (
            {'conv1.weight': torch.ones(2), 'layer1.0.conv1.weight': torch.ones(2)},
            {'cls_token': torch.ones(1, 1, WIDE)},  # alone it is no ViT
            {'decoder_blocks.0.attn.qkv.weight': torch.ones(3 * WIDE, WIDE)},
            {},
        )
    ):
        path = tmp_path / f'{number}.pth'
        torch.save({'state_dict': state}, path)
        model = encoder()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match='fills no block of MergeVQEncoder: found'):
            WeightSelection(path)(model)
        after = model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_narrower_source_changes_nothing(tmp_path: Path) -> None:
    torch.save(timm_vit('mae'), tmp_path / 'vit.pth')
    model = encoder(32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='is smaller than .* at least as wide'):
        WeightSelection(tmp_path / 'vit.pth')(model)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_a_prefix_chooses_one_of_several(tmp_path: Path) -> None:
    state = {f'b.{name}': value for name, value in timm_vit('mae').items()}
    torch.save(state, tmp_path / 'two.pth')
    with pytest.raises(ValueError, match='fills no block'):
        WeightSelection(tmp_path / 'two.pth')(encoder())
    select = WeightSelection(tmp_path / 'two.pth', prefix='b.')
    select(encoder())
    assert len(select.report.matched) == 25
    with pytest.raises(FileNotFoundError, match='does not exist'):
        WeightSelection(tmp_path / 'no.pth')(encoder())
