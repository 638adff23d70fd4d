"""The encoder as a backbone: what it returns, freezes, copies and loads."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from torch.nn import functional as F

from mergevq_mm.models.backbones import MergeVQEncoder
from mergevq_mm.models.utils.group_map import recover_tokens
from mergevq_mm.registry import MODELS

HYBRID = {
    'stem': 'hybrid',
    'base_channels': 8,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'num_layers': 3,
    'num_heads': 2,
}
PATCH = {
    'stem': 'patch',
    'embed_dims': 16,
    'patch_size': 4,
    'num_layers': 3,
    'num_heads': 4,
}


def build(arch: dict = PATCH, size: int = 16, **kwargs: object) -> MergeVQEncoder:
    """A small encoder in which every parameter is random and no branch hides."""
    encoder = MergeVQEncoder(arch, img_size=size, layer_scale=1.0, **kwargs).eval()
    for parameter in encoder.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize('keep', [None, 7])
@torch.no_grad()
def test_out_types_agree(keep: int | None) -> None:
    encoder = build(HYBRID, keep=keep)
    x = torch.randn(2, 3, 8, 16)
    merged = encoder.encode(x, keep)
    outs = {}
    for encoder.out_type in MergeVQEncoder.OUT_TYPES:
        (outs[encoder.out_type],) = encoder(x)
    on_grid = recover_tokens(merged.tokens, merged.group)  # B×L×D
    number = 32 if keep is None else keep
    assert outs['raw'].shape == (2, 1 + number, 16)
    assert torch.equal(outs['raw'][:, 0], merged.cls)
    assert torch.equal(outs['cls_token'], merged.cls)
    # Maps are put back on the grid by the group map.
    assert outs['featmap'].shape == (2, 16, 4, 8)
    assert torch.equal(outs['featmap'].flatten(2).transpose(1, 2), on_grid)
    torch.testing.assert_close(outs['avg_featmap'], on_grid.mean(dim=1))
    weighted = (merged.tokens * merged.size[..., None]).sum(dim=1) / 32
    torch.testing.assert_close(outs['avg_featmap'], weighted)


@torch.no_grad()
@pytest.mark.parametrize('arch', [PATCH, HYBRID])
def test_one_embedding_serves_any_number_of_tokens(arch: dict) -> None:
    encoder = build(arch)
    x = torch.randn(2, 3, 8, 16)
    embedded = encoder.embed(x)
    assert embedded.grid == encoder.grid_of(8, 16)
    for keep in (None, 7, 0.5):
        whole, parts = encoder.encode(x, keep), encoder.encode_embedded(embedded, keep)
        assert all(torch.equal(a, b) for a, b in zip(whole[:-1], parts[:-1]))
        assert whole.grid == parts.grid


@torch.no_grad()
def test_keep_of_the_call_wins_and_encoding_ignores_the_constructors() -> None:
    encoder = build(HYBRID, keep=0.25, out_type='raw')
    x = torch.randn(1, 3, 16, 16)
    assert encoder(x)[0].shape[1] == 1 + 16
    assert encoder(x, keep=30)[0].shape[1] == 1 + 30
    assert encoder(x, keep=1.0)[0].shape[1] == 1 + 64
    assert encoder(x, mode='encode').tokens.shape[1] == 64


@torch.no_grad()
def test_out_indices_and_out_stages() -> None:
    x = torch.randn(1, 3, 16, 16)
    encoder = build(HYBRID, out_type='featmap', out_indices=(0, 2), out_stages=(0, 1))
    stages = encoder.stem(x)
    outs = encoder(x)
    assert [tuple(out.shape[1:]) for out in outs] == [
        (8, 16, 16),
        (16, 8, 8),
        (16, 8, 8),
        (16, 8, 8),
    ]
    assert torch.equal(outs[0], stages[0]) and torch.equal(outs[1], stages[1])
    encoder.out_stages = ()
    for index in range(3):
        encoder.out_indices = (index,)
        if index == 0:
            assert torch.equal(encoder(x)[0], outs[2])
        if index == 2:
            assert torch.equal(encoder(x)[0], outs[3])
    assert build(out_indices=-1).out_indices == (2,)
    assert build(out_indices=[-3, -1]).out_indices == (0, 2)


@torch.no_grad()
def test_merged_maps_of_every_block_are_on_the_grid() -> None:
    encoder = build(HYBRID, out_type='featmap', out_indices=(0, 1, 2), keep=9)
    maps = encoder(torch.randn(2, 3, 16, 16))
    plan = encoder.plan((8, 8), 9)
    left = 64
    for feature, r in zip(maps, plan):
        left -= r
        assert feature.shape == (2, 16, 8, 8)
        for b in range(2):  # as many different vectors as tokens are left
            assert len(feature[b].flatten(1).T.unique(dim=0)) == left


def test_frozen_stages() -> None:
    x = torch.randn(1, 3, 16, 16)
    for frozen in (-1, 0, 2, 3):
        encoder = build(HYBRID, frozen_stages=frozen, pos_embed=True).train()
        fixed = {n for n, p in encoder.named_parameters() if not p.requires_grad}
        stem = {n for n, _ in encoder.named_parameters() if n.startswith('stem.')}
        blocks = [
            {n for n, _ in encoder.named_parameters() if n.startswith(f'layers.{i}.')}
            for i in range(3)
        ]
        if frozen < 0:
            assert not fixed and encoder.stem.training
        else:
            alone = {'cls_token', 'pos_embed'}
            assert fixed == stem.union(alone, *blocks[:frozen])
            assert not encoder.stem.training
        for i, layer in enumerate(encoder.layers):
            assert layer.training == (i >= frozen)
        if frozen < 3:
            encoder(x)[0].sum().backward()
            assert encoder.layers[2].mlp.fc1.weight.grad is not None


def test_drop_path_rises_linearly_and_acts_in_training_alone() -> None:
    encoder = build(PATCH, drop_path_rate=0.4)
    rates = [layer.drop_path.drop_prob for layer in encoder.layers]
    assert rates == pytest.approx([0, 0.2, 0.4])
    x = torch.randn(8, 3, 16, 16)
    assert torch.equal(encoder(x)[0], encoder(x)[0])
    encoder.train()
    assert not torch.equal(encoder(x)[0], encoder(x)[0])


def test_layer_depth_is_mmpretrains() -> None:
    # mmpretrain's own parts name each other without a scope.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(
            {
                'type': 'mmpretrain.ImageClassifier',
                'backbone': {
                    'type': 'mergevq_mm.MergeVQEncoder',
                    'arch': PATCH,
                    'img_size': 16,
                },
                'head': {
                    'type': 'mmpretrain.LinearClsHead',
                    'num_classes': 5,
                    'in_channels': 16,
                },
            }
        )
    vit = MODELS.build(
        {
            'type': 'mmpretrain.VisionTransformer',
            'img_size': 16,
            'patch_size': 4,
            'arch': {
                'embed_dims': 16,
                'num_layers': 3,
                'num_heads': 2,
                'feedforward_channels': 32,
            },
        }
    )
    theirs = {
        'backbone.cls_token': 'cls_token',
        'backbone.pos_embed': 'pos_embed',
        'backbone.stem.projection.weight': 'patch_embed.projection.weight',
        'backbone.layers.0.norm1.weight': 'layers.0.ln1.weight',
        'backbone.layers.2.mlp.fc2.bias': 'layers.2.ffn.layers.1.bias',
    }
    names = dict(classifier.named_parameters())
    for ours, other in theirs.items():
        assert ours in names
        assert classifier.get_layer_depth(ours) == vit.get_layer_depth(other)
    assert classifier.get_layer_depth('head.fc.weight') == (4, 5)
    assert all(0 <= classifier.get_layer_depth(name)[0] <= 4 for name in names)
    # And it is a backbone that mmpretrain's heads understand.
    assert classifier(torch.randn(2, 3, 16, 16)).shape == (2, 5)


# -------------------------------------------------- position embedding and weights


@torch.no_grad()
def test_position_embedding_is_interpolated_for_other_sizes() -> None:
    encoder = build(PATCH)
    x = torch.randn(1, 3, 16, 32)
    table = encoder.pos_embed.view(1, 4, 4, 16).permute(0, 3, 1, 2)
    resized = F.interpolate(table, (4, 8), mode='bicubic', align_corners=False)
    tokens = encoder.stem(x)[-1] + resized
    found = encoder.embed(x).tokens
    torch.testing.assert_close(found[:, 1:], tokens.flatten(2).transpose(1, 2))


@pytest.mark.parametrize('size', [(16, 16), (32, 32), (8, 24)])
def test_position_embedding_is_resized_on_load(size: tuple[int, int]) -> None:
    source, target = build(PATCH), MergeVQEncoder(PATCH, img_size=size)
    state = source.state_dict()
    shape = state['pos_embed'].shape
    target.load_state_dict(state)  # strict
    table = source.pos_embed.detach().view(1, 4, 4, 16).permute(0, 3, 1, 2)
    grid = (size[0] // 4, size[1] // 4)
    expected = F.interpolate(table, grid, mode='bicubic', align_corners=False)
    torch.testing.assert_close(
        target.pos_embed.detach(), expected.flatten(2).transpose(1, 2)
    )
    assert state['pos_embed'].shape == shape  # the caller's dict is as it was


def resized(table: torch.Tensor, source: tuple, target: tuple) -> torch.Tensor:
    """Bicubic interpolation of a table 1×L×16 by torch alone."""
    maps = table.detach().view(1, *source, 16).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, target, mode='bicubic', align_corners=False)
    return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ('source', 'target', 'saved'),
    [
        ((16, 16), (8, 32), True),  # equally many positions
        ((8, 32), (16, 16), True),
        ((8, 24), (16, 16), True),  # not square
        ((8, 24), (8, 24), False),  # a file of before the grid was saved
        ((16, 16), (8, 32), False),  # as square
    ],
)
def test_the_grid_is_saved_with_the_positions(
    source: tuple[int, int], target: tuple[int, int], saved: bool
) -> None:
    one = MergeVQEncoder(PATCH, img_size=source)
    other = MergeVQEncoder(PATCH, img_size=target)
    state = one.state_dict()
    assert state['pos_grid'].tolist() == [size // 4 for size in source]
    if not saved:
        del state['pos_grid']
    names = set(state)
    other.load_state_dict(state)  # strict
    assert set(state) == names
    grids = [tuple(size // 4 for size in sizes) for sizes in (source, target)]
    expected = one.pos_embed
    if grids[0] != grids[1]:
        expected = resized(one.pos_embed, *grids)
    torch.testing.assert_close(other.pos_embed.detach(), expected.detach())
    assert other.pos_grid.tolist() == list(grids[1])  # what it will save
    assert sum(p.numel() for p in other.parameters()) == sum(
        v.numel() for k, v in other.state_dict().items() if k != 'pos_grid'
    )


def test_positions_of_an_unknown_grid_are_refused() -> None:
    state = MergeVQEncoder(PATCH, img_size=(8, 24)).state_dict()
    square = MergeVQEncoder(PATCH, img_size=16)
    with pytest.raises(ValueError, match=r'pos_embed .* 12 positions and pos_grid=\['):
        square.load_state_dict({**state, 'pos_grid': torch.tensor([5, 5])})
    del state['pos_grid']
    with pytest.raises(
        ValueError, match='12 positions and no pos_grid.*; add pos_grid'
    ):
        square.load_state_dict(state)
    assert 'pos_grid' not in build(HYBRID).state_dict()


def test_copies_resize_for_themselves() -> None:
    """EMA copies the model; the load hook must see the copy's grid."""
    encoder = MergeVQEncoder(PATCH, img_size=32)
    twin = copy.deepcopy(encoder)
    encoder.grid = (0, 0)
    twin.load_state_dict(build(PATCH).state_dict())
    assert twin.pos_embed.shape == (1, 64, 16)


def test_a_checkpoint_that_matches_nothing_is_refused(tmp_path: object) -> None:
    source = build(PATCH)
    path = tmp_path / 'model.pth'
    prefixed = {'backbone.' + k: v for k, v in source.state_dict().items()}
    torch.save({'state_dict': prefixed}, path)
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(path), 'prefix': 'backbone.'}
    encoder = MergeVQEncoder(PATCH, img_size=16, init_cfg=init_cfg)
    encoder.init_weights()
    for a, b in zip(encoder.parameters(), source.parameters()):
        assert torch.equal(a, b)
    other = MergeVQEncoder(
        PATCH, img_size=16, init_cfg={**init_cfg, 'prefix': 'encoder.'}
    )
    with pytest.raises(ValueError):
        other.init_weights()


def test_weights_that_cannot_be_had_name_the_way_out(tmp_path: object) -> None:
    init_cfg = {
        'type': 'mergevq_mm.WeightSelection',
        'checkpoint': str(tmp_path / 'dinov2.pth'),
    }
    encoder = MergeVQEncoder(PATCH, img_size=16, init_cfg=init_cfg)
    with pytest.raises(
        FileNotFoundError,
        match=r'init_cfg of the backbone: .*dinov2\.pth" does not exist: give the path '
        r"or URL of a file as its 'checkpoint', or set init_cfg=None to start",
    ):
        encoder.init_weights()


def test_initial_weights() -> None:
    encoder = MergeVQEncoder(PATCH, img_size=16)
    encoder.init_weights()
    assert encoder.cls_token.abs().max() < 1e-5
    layer = encoder.layers[0]
    assert torch.equal(layer.ls1.gamma, torch.full((16,), 1e-5))
    assert layer.attn.qkv.bias.abs().max() == 0
    assert 0.015 < layer.mlp.fc1.weight.std() < 0.025
    assert encoder.pos_embed.std() > 0.01
