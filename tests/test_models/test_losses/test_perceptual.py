import lpips
import pytest
import torch
from torch import nn

import mergevq_mm  # noqa: F401
from mergevq_mm.models.losses import LPIPSLoss, PerceptualLoss, feature_distance
from mergevq_mm.registry import MODELS


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 3, 48, 48, generator=generator) * 2 - 1 for _ in range(2)]


@pytest.fixture(scope='module')
def alex_weights(tmp_path_factory):
    """Random weights in torchvision's layout, as a file."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('alex') / 'alexnet.pth'
    torch.save(alexnet().state_dict(), path)
    return str(path)


@pytest.fixture(scope='module')
def reference(alex_weights):
    """The lpips package on the same weights."""
    net = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)
    weights = torch.load(alex_weights, weights_only=True)
    for part in net.net.children():
        for name, layer in part.named_children():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data.copy_(weights[f'features.{name}.weight'])
                layer.bias.data.copy_(weights[f'features.{name}.bias'])
    return net


def test_lpips_equals_the_package(images, alex_weights, reference):
    loss = LPIPSLoss('alex', checkpoint=alex_weights, loss_weight=0.7)
    expected = reference(*images).flatten()
    torch.testing.assert_close(loss.distance(*images), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss(*images), 0.7 * expected.mean())


def test_lpips_gradient_equals_the_package(images, alex_weights, reference):
    recon, image = images[0].requires_grad_(), images[1]
    (grad,) = torch.autograd.grad(
        LPIPSLoss('alex', checkpoint=alex_weights)(recon, image), recon
    )
    (expected,) = torch.autograd.grad(reference(recon, image).mean(), recon)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-7)


def test_unlearned_form_equals_the_package(images, reference):
    baseline = lpips.LPIPS(net='alex', pnet_rand=True, lpips=False, verbose=False)
    baseline.net.load_state_dict(reference.net.state_dict())
    shift, scale = (
        baseline.scaling_layer.shift.flatten(),
        baseline.scaling_layer.scale.flatten(),
    )
    loss = PerceptualLoss(
        baseline.net, mean=(127.5 * (shift + 1)).tolist(), std=(127.5 * scale).tolist()
    )
    expected = baseline(*images).flatten()
    torch.testing.assert_close(loss.distance(*images), expected, rtol=1e-4, atol=1e-6)


def test_distance_equals_a_slow_loop():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    weight = torch.tensor([1.0, 2.0, 0.5]).reshape(3, 1, 1)
    result = feature_distance([a, a], [b, b], [weight, 3.0])
    for n in range(2):
        total = 0.0
        for i in range(2):
            for j in range(2):
                u, v = a[n, :, i, j], b[n, :, i, j]
                square = (u / u.norm() - v / v.norm()) ** 2
                total += ((square * weight.flatten()).sum() + 3 * square.sum()) / 4
        assert result[n].item() == pytest.approx(total.item(), rel=1e-5)


def test_gradient_is_finite_where_all_channels_are_zero():
    feature = torch.zeros(1, 4, 2, 2, requires_grad=True)
    feature_distance([feature], [torch.ones(1, 4, 2, 2)]).sum().backward()
    assert feature.grad.isfinite().all()


def test_equal_images_have_no_distance_and_weights_are_checked(images):
    net = nn.Conv2d(3, 4, 3)
    loss = PerceptualLoss(_Maps(net), weights=[2.0])
    assert loss(images[0], images[0]).item() == 0
    single = PerceptualLoss(_Maps(net))
    torch.testing.assert_close(loss(*images), 2 * single(*images))
    with pytest.raises(ValueError, match='one number for each of the 1 maps'):
        PerceptualLoss(_Maps(net), weights=[1.0, 2.0])(*images)


def test_autocast_does_not_reach_it(images):
    loss = PerceptualLoss(_Maps(nn.Conv2d(3, 4, 3)))
    expected = loss(*images)
    with torch.autocast('cpu', torch.bfloat16):
        result = loss(*images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_no_state_and_no_parameters(alex_weights, images):
    loss = LPIPSLoss('alex', checkpoint=alex_weights)
    loss(*images)
    assert not loss.state_dict() and not list(loss.parameters())


def test_bad_weights_have_one_sentence(tmp_path, alex_weights):
    with pytest.raises(ValueError, match="net='resnet'"):
        LPIPSLoss('resnet')
    missing = LPIPSLoss('vgg', checkpoint=str(tmp_path / 'vgg16.pth'))
    with pytest.raises(FileNotFoundError, match='vgg16.pth'):
        missing.init_weights()
    wrong = MODELS.build(
        dict(type='mergevq_mm.LPIPSLoss', net='squeeze', checkpoint=alex_weights)
    )
    with pytest.raises(ValueError, match="lacks 'features.0.weight'|lacks 'features"):
        wrong.init_weights()


class _Maps(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return (self.net(x),)
