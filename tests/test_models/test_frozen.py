import copy
import pickle
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.model import BaseModule, ExponentialMovingAverage
from PIL import Image
from torch import nn

import mergevq_mm  # noqa: F401
from mergevq_mm.models.utils.frozen import FrozenModel

RESNET = dict(type='mmpretrain.ResNet', depth=18)


class Owner(BaseModule):
    def __init__(self, **kwargs):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.helper = FrozenModel(**kwargs)


@pytest.fixture
def checkpoint(tmp_path):
    from mmpretrain.registry import MODELS

    torch.manual_seed(1)
    state = MODELS.build(RESNET).state_dict()
    torch.save(
        {'state_dict': {'backbone.' + k: v for k, v in state.items()}},
        tmp_path / 'resnet18.pth',
    )
    return str(tmp_path / 'resnet18.pth')


def pretrained(checkpoint, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint, **kwargs)
    return dict(RESNET, init_cfg=init_cfg)


def test_owns_nothing_that_trains_or_is_saved():
    owner = Owner(network=nn.Conv2d(3, 4, 3))
    owner.init_weights()
    assert set(owner.state_dict()) == {'own.weight', 'own.bias'}
    assert len(list(owner.parameters())) == 2
    assert [type(m) for m in owner.helper.modules()] == [FrozenModel]
    owner.load_state_dict(owner.state_dict(), strict=True)


def test_gradient_reaches_the_image_and_not_the_network():
    conv = nn.Conv2d(3, 4, 3)
    image = torch.rand(1, 3, 5, 5, requires_grad=True)
    FrozenModel(conv)(image).sum().backward()
    expected = torch.nn.functional.conv_transpose2d(torch.ones(1, 4, 3, 3), conv.weight)
    torch.testing.assert_close(image.grad, expected)
    assert conv.weight.grad is None and not conv.weight.requires_grad


def test_follows_dtype_and_device_before_and_after_it_is_built():
    ready, late = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    owner, other = Owner(network=ready), Owner(network=lambda: late)
    owner.init_weights()
    owner.double(), other.double()
    assert owner.helper.network.weight.dtype == torch.float64
    assert late.weight.dtype == torch.float32  # not built yet
    other.init_weights()
    assert other.helper.network is late and late.weight.dtype == torch.float64
    assert other.helper(torch.rand(1, 3, 5, 5)).dtype == torch.float64
    owner.to('meta')
    assert owner.helper.network.weight.device.type == 'meta'


def test_stays_in_evaluation_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    owner = Owner(network=network)
    owner.init_weights()
    owner.train()
    assert owner.helper.training and not network.training and not network[2].training
    owner.helper(torch.rand(2, 3, 8, 8))
    assert torch.equal(network[1].running_mean, torch.zeros(4))


def test_a_deep_copy_shares_the_network():
    owner = Owner(network=lambda: nn.Conv2d(3, 4, 3))
    before = copy.deepcopy(owner)
    owner.init_weights()
    after = copy.deepcopy(owner)
    assert after.helper.network is owner.helper.network is before.helper.network
    assert after.helper is not owner.helper
    assert after.own.weight is not owner.own.weight


MOVES = {
    'to': lambda owner: owner.to(torch.bfloat16),
    'half': lambda owner: owner.half(),
    'double': lambda owner: owner.double(),
    'device': lambda owner: owner.to('meta'),
    'ema': lambda owner: ExponentialMovingAverage(owner, device='meta').module,
}


@pytest.mark.parametrize('move', MOVES.values(), ids=MOVES)
@pytest.mark.parametrize('built', ['before', 'between', 'after'])
def test_a_moved_copy_leaves_the_original_alone(built: str, move: Callable) -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    owner = Owner(network=build)
    if built == 'before':
        owner.init_weights()
    moved = copy.deepcopy(owner)
    if built == 'between':
        owner.init_weights()
    moved = move(moved)
    network, place = moved.helper.network, moved.own.weight
    for value in (network[0].weight, network[1].running_mean):
        assert (value.dtype, value.device) == (place.dtype, place.device)
        assert not value.requires_grad
    assert network is not owner.helper.network and not network.training
    expected = build().state_dict()
    for name, value in owner.helper.network.state_dict().items():
        assert value.device.type == 'cpu' and torch.equal(value, expected[name])
    image = torch.rand(1, 3, 5, 5)
    torch.testing.assert_close(owner.helper(image), build().eval()(image))
    assert moved.helper(image.to(place)).dtype == place.dtype


def test_copies_share_a_network_wherever_they_agree() -> None:
    owner = Owner(network=nn.Conv2d(3, 4, 3))
    first, second = copy.deepcopy(owner), copy.deepcopy(owner)
    own = weakref.ref(owner.helper.network)
    first.double(), second.double()
    assert first.helper.network is second.helper.network is not own()
    first.float()
    assert first.helper.network is own()
    owner.double(), first.double()
    assert own() is None  # nobody uses it any more


def test_an_unchanged_place_keeps_the_network() -> None:
    owner = Owner(network=nn.Conv2d(3, 4, 3))
    network = owner.helper.network
    weight = network.weight
    owner.to('cpu', torch.float32).share_memory()
    assert owner.helper.network is network and network.weight is weight


def test_pickled_models_bring_their_network() -> None:
    owner = Owner(network=nn.Conv2d(3, 4, 3))
    read = pickle.loads(pickle.dumps(owner))
    image = torch.rand(1, 3, 5, 5)
    assert torch.equal(read.helper(image), owner.helper(image))
    copied = copy.deepcopy(read).double()
    assert copied.helper.network.weight.dtype == torch.float64
    assert torch.equal(read.helper(image), owner.helper(image))


def test_a_script_is_moved_too() -> None:
    script = nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)))
    owner = Owner(network=script)
    moved = copy.deepcopy(owner).double()
    image = torch.rand(1, 3, 5, 5)
    assert moved.helper(image).dtype == torch.float64
    assert owner.helper(image).dtype == torch.float32
    torch.testing.assert_close(moved.helper(image).float(), owner.helper(image))


def test_normalisation_and_resize():
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    model = FrozenModel(nn.Identity(), mean, std)
    image = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    expected = [(v - m) / s for v, m, s in zip((0, 127.5, 255), mean, std)]
    assert model(image).flatten().tolist() == pytest.approx(expected, rel=1e-5)
    image = torch.rand(1, 3, 20, 12)
    assert torch.equal(FrozenModel(nn.Identity())(image), image)


@pytest.mark.parametrize('height, width', [(10, 7), (33, 24)])
def test_resize_equals_pillow(height, width):
    image = torch.rand(1, 3, 20, 12)
    resized = FrozenModel(nn.Identity(), input_size=(height, width))(image)
    for channel in range(3):
        picture = Image.fromarray(image[0, channel].numpy(), mode='F')
        expected = picture.resize((width, height), Image.BICUBIC)
        torch.testing.assert_close(
            resized[0, channel], torch.from_numpy(np.array(expected)), atol=1e-5, rtol=0
        )


def test_autocast_is_left_out_unless_asked_for():
    conv = nn.Conv2d(3, 4, 3)
    image = torch.rand(1, 3, 5, 5)
    with torch.autocast('cpu', torch.bfloat16):
        assert FrozenModel(conv)(image).dtype == torch.float32
        assert FrozenModel(conv, fp32=False)(image).dtype == torch.bfloat16


def test_loads_by_prefix_once(checkpoint):
    model = FrozenModel(pretrained(checkpoint, prefix='backbone.'))
    random = torch.random.get_rng_state()
    model.init_weights()
    assert torch.equal(torch.random.get_rng_state(), random)
    network = model.network
    model.init_weights()
    assert model.network is network
    stored = torch.load(checkpoint, weights_only=True)['state_dict']
    assert torch.equal(network.conv1.weight, stored['backbone.conv1.weight'])


def test_a_submodule_can_be_filled(tmp_path):
    torch.manual_seed(1)
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / 'conv.pth')
    network = dict(
        type='mmengine.TinyNetwork',
        init_cfg=dict(
            type='Pretrained', checkpoint=str(tmp_path / 'conv.pth'), submodule='0'
        ),
    )
    from mmengine.registry import MODELS

    if 'TinyNetwork' not in MODELS:
        MODELS.register_module(
            'TinyNetwork', module=lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        )
    model = FrozenModel(network)
    stored = torch.load(tmp_path / 'conv.pth', weights_only=True)
    assert torch.equal(model.network[0].weight, stored['weight'])


def test_weights_built_under_inference_mode_serve_training(checkpoint):
    model = FrozenModel(pretrained(checkpoint, prefix='backbone.'))
    with torch.inference_mode():
        model(torch.rand(1, 3, 32, 32))
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    model(image)[-1].sum().backward()
    assert image.grad.abs().sum() > 0


def test_random_networks_must_be_asked_for_and_are_reproducible():
    with pytest.raises(ValueError, match="'mmpretrain.ResNet' of a frozen model has"):
        FrozenModel(RESNET)
    first = FrozenModel(RESNET, random_init=True).network
    torch.manual_seed(123)
    second = FrozenModel(RESNET, random_init=True).network
    assert torch.equal(first.conv1.weight, second.conv1.weight)


def test_missing_and_foreign_weights(tmp_path, checkpoint):
    missing = Owner(network=pretrained(str(tmp_path / 'none.pth')))
    with pytest.raises(FileNotFoundError, match='none.pth'):
        missing.init_weights()  # as Runner.train does before the first step
    foreign = FrozenModel(pretrained(checkpoint, prefix='encoder.'))
    with pytest.raises(ValueError, match='prefix='):
        foreign.init_weights()


@pytest.mark.parametrize('kwargs', [{'mean': [0.485, 0.456, 0.406]}, {'std': 0.0}])
def test_odd_normalisation_is_refused(kwargs):
    with pytest.raises(ValueError, match='0..255|in grey values'):
        FrozenModel(nn.Identity(), **kwargs)
