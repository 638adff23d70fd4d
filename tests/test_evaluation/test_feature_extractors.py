import pytest
import torch
from torch import nn

from mergevq_mm.evaluation import BackboneFeatures, InceptionFeatures
from mergevq_mm.registry import MODELS


class _Pool(nn.Module):
    """Stands for a StyleGAN Inception: 0..255 to their channel means."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if return_features:
            return x.mean([2, 3])
        return x


@MODELS.register_module(force=True)
class _Tokens(nn.Module):
    """Returns the images' columns as tokens B×W×3."""

    def forward(self, x):
        return (x, x.mean(2).transpose(1, 2))


@MODELS.register_module(force=True)
class _Maps(nn.Module):
    def forward(self, x):
        return (x[:, :1], x)


def test_backbone_features_by_hand():
    image = torch.rand(2, 3, 8, 8)
    maps = BackboneFeatures(dict(type='mergevq_mm._Maps'), random_init=True)
    expected = image.mean((2, 3)) * 2 - 1
    torch.testing.assert_close(maps(image), expected)
    tokens = dict(type='mergevq_mm._Tokens')
    average = BackboneFeatures(tokens, random_init=True)
    torch.testing.assert_close(average(image), expected)
    first = BackboneFeatures(tokens, pool='cls', random_init=True)
    torch.testing.assert_close(first(image), image[..., 0].mean(2) * 2 - 1)
    scaled = BackboneFeatures(
        dict(type='mergevq_mm._Maps'), mean=[0.0] * 3, std=[255.0] * 3, random_init=True
    )
    torch.testing.assert_close(scaled(image), image.mean((2, 3)))


def test_quantize_and_clamp():
    image = torch.tensor([0.6 / 255, 1.4 / 255, 1.2]).reshape(1, 3, 1, 1)
    network = dict(type='mergevq_mm._Maps')
    rounded = BackboneFeatures(network, quantize=True, random_init=True)
    expected = torch.tensor([[1 / 255, 1 / 255, 1.0]]) * 2 - 1
    torch.testing.assert_close(rounded(image), expected)
    assert rounded.protocol()['rounding'] == '8 bit'


def test_protocol_and_nothing_in_checkpoints(tmp_path):
    path = tmp_path / 'lite0.pth'
    path.touch()
    network = dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    extractor = BackboneFeatures(network, input_size=64)
    assert extractor.protocol() == {
        'features': 'mmpretrain.TIMMBackbone/tf_efficientnet_lite0',
        'weights': 'lite0.pth',
        'resize': 'bicubic antialiased to (64, 64)',
        'rounding': 'none',
    }
    assert not list(extractor.parameters()) and not extractor.state_dict()


def test_stylegan_torchscript(tmp_path):
    path = tmp_path / 'inception.pt'
    torch.jit.script(_Pool()).save(str(path))
    extractor = InceptionFeatures(str(path), style='stylegan')
    image = torch.rand(2, 3, 8, 8)
    expected = image.mul(255).round().mean((2, 3))
    torch.testing.assert_close(extractor(image), expected)
    assert extractor.protocol()['features'] == 'Inception-v3 pool (stylegan)'
    assert extractor.protocol()['rounding'] == '8 bit'


def test_torchscript_of_another_kind(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'a': torch.zeros(1)}, path)
    extractor = InceptionFeatures(str(path), style='stylegan')
    with pytest.raises(ValueError, match='no TorchScript file'):
        extractor(torch.rand(1, 3, 8, 8))


def test_torchvision_inception(tmp_path):
    """Our features are torchvision's pooled layer on resized images."""
    import torchvision

    network = torchvision.models.inception_v3(
        weights=None, transform_input=False, init_weights=False
    ).eval()
    path = tmp_path / 'inception.pth'
    torch.save(network.state_dict(), path)
    extractor = InceptionFeatures(str(path), style='torchvision')
    image = torch.rand(1, 3, 32, 32)
    seen = []
    network.avgpool.register_forward_hook(lambda m, i, o: seen.append(o.flatten(1)))
    resized = nn.functional.interpolate(image, (299, 299), mode='bilinear')
    with torch.no_grad():
        network(resized * 2 - 1)
        features = extractor(image)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, seen[0])


@pytest.mark.slow  # importing mmagic alone takes several seconds
def test_fid_inception_equals_mmagic(tmp_path):
    from mmagic.evaluation.functional import fid_inception

    network = fid_inception.fid_inception_v3(load_ckpt=False).eval()
    path = tmp_path / 'fid.pth'
    torch.save(network.state_dict(), path)
    image = torch.rand(1, 3, 32, 32)
    extractor = InceptionFeatures(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid_inception, 'fid_inception_v3', lambda load: network)
        reference = fid_inception.InceptionV3(load_fid_inception=False).eval()
    with torch.no_grad():
        expected = reference(image)[0].flatten(1)
        torch.testing.assert_close(extractor(image), expected)


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint='/nowhere.pth' is no file"):
        InceptionFeatures('/nowhere.pth')
    with pytest.raises(ValueError, match="style='tf'"):
        InceptionFeatures(style='tf')
    network = dict(type='mergevq_mm._Maps')
    with pytest.raises(ValueError, match='random_init=True'):
        BackboneFeatures(network)
    with pytest.raises(ValueError, match="pool='max'"):
        BackboneFeatures(network, pool='max', random_init=True)
    init_cfg = dict(type='Pretrained', checkpoint='/nowhere.pth')
    with pytest.raises(FileNotFoundError, match='is no file'):
        BackboneFeatures(dict(network, init_cfg=init_cfg))
    path = tmp_path / 'other.pth'
    torch.save({'a': torch.zeros(1)}, path)
    with pytest.raises(ValueError, match='fills 0 of'):
        InceptionFeatures(str(path), style='torchvision')(torch.rand(1, 3, 8, 8))
