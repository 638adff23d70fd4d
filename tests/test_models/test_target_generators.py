import copy

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmpretrain.structures import DataSample
from PIL import Image
from torch import nn

import mergevq_mm  # noqa: F401
from mergevq_mm.models.target_generators import (
    EMATeacher,
    FrozenTeacher,
    StoredTeacher,
    extract_targets,
    write_targets,
)
from mergevq_mm.models.utils.structures import MergedTokens
from mergevq_mm.registry import MODELS

VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=28,
    patch_size=14,
    layer_scale_init_value=1e-5,
)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def view(batch=3, size=28):
    return torch.rand(batch, 3, size, size) * 2 - 1


# ----------------------------------------------------------------------- frozen


@pytest.fixture
def vit_weights(tmp_path):
    """A checkpoint in OpenMMLab's layout, for images of 42 px as 3×3 patches."""
    torch.manual_seed(1)
    network = MODELS.build(dict(VIT, img_size=42))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    state = {'backbone.' + k: v for k, v in network.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'vit.pth')
    return tmp_path / 'vit.pth'


def test_teacher_equals_the_network(vit_weights):
    init_cfg = dict(type='Pretrained', checkpoint=str(vit_weights), prefix='backbone.')
    teacher = MODELS.build(
        dict(
            type='mergevq_mm.FrozenTeacher',
            network=dict(VIT, img_size=42, init_cfg=init_cfg),
            **IMAGENET,
        )
    )
    network = MODELS.build(dict(VIT, img_size=42))
    state = torch.load(vit_weights, weights_only=True)['state_dict']
    network.load_state_dict({k[len('backbone.') :]: v for k, v in state.items()})
    network.eval()
    x = view(size=42)
    mean = torch.tensor(IMAGENET['mean']).reshape(3, 1, 1)
    std = torch.tensor(IMAGENET['std']).reshape(3, 1, 1)
    with torch.no_grad():
        expected = network(((x + 1) * 127.5 - mean) / std)[-1]
    target = teacher(x)
    torch.testing.assert_close(target, expected, rtol=1e-4, atol=1e-5)
    assert not target.requires_grad and target.shape == (3, 16)
    assert not teacher.state_dict() and not list(teacher.parameters())


def test_position_embedding_is_resized_on_load(vit_weights):
    init_cfg = dict(type='Pretrained', checkpoint=str(vit_weights), prefix='backbone.')
    teacher = FrozenTeacher(dict(VIT, init_cfg=init_cfg), input_size=28)
    assert teacher(view(size=64)).shape == (3, 16)
    assert teacher.model.network.pos_embed.shape == (1, 5, 16)


def test_maps_are_averaged_and_the_last_output_counts():
    conv = nn.Conv2d(3, 5, 3)

    class Backbone(nn.Module):
        def forward(self, x):
            return x, conv(x)

    x = view()
    expected = conv(x).mean((2, 3)).detach()
    torch.testing.assert_close(FrozenTeacher(Backbone())(x), expected)


def test_output_is_float32_under_autocast():
    teacher = FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 8)))
    with torch.autocast('cpu', torch.bfloat16):
        assert teacher(view(size=4)).dtype == torch.float32


def test_missing_weights_stop_before_the_first_step():
    config = dict(VIT, init_cfg=dict(type='Pretrained', checkpoint='nowhere/vit.pth'))
    teacher = FrozenTeacher(config)  # inference never needs the file
    with pytest.raises(FileNotFoundError, match='nowhere/vit.pth'):
        teacher.init_weights()
    with pytest.raises(ValueError, match='has no weights'):
        FrozenTeacher(VIT)


def test_bad_views_are_refused():
    with pytest.raises(ValueError, match='view=None'):
        FrozenTeacher(nn.Identity())(None)
    with pytest.raises(ValueError, match='out_type'):
        FrozenTeacher(nn.Flatten(2))(view())


# ----------------------------------------------------------------------- stored


@pytest.fixture
def photos(tmp_path):
    """Images of 8×8 in two splits and two classes; returns the root and the pixels."""
    generator, pixels = np.random.default_rng(0), {}
    for key in ('train/3/00012.png', 'train/7/00012.png', 'val/3/00001.png'):
        path = tmp_path / 'data' / key
        path.parent.mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path), image)
        rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
        pixels[key] = rgb.float() / 127.5 - 1
    return tmp_path / 'data', pixels


def flat_teacher():
    torch.manual_seed(5)
    return FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(192, 6)))


def sample(path):
    return DataSample(metainfo=dict(img_path=str(path)))


@pytest.mark.parametrize('ending', ['safetensors', 'npz'])
def test_stored_targets_are_the_teachers(photos, tmp_path, ending):
    root, pixels = photos
    out, teacher = tmp_path / f'targets.{ending}', flat_teacher()
    assert extract_targets(teacher, root, out, batch_size=2) == (3, 6)
    assert not list(tmp_path.glob('*.part'))
    stored = StoredTeacher(str(out))
    keys = ['val/3/00001.png', 'train/7/00012.png', 'train/3/00012.png']
    result = stored(None, [sample(root / key) for key in keys])
    expected = teacher(torch.stack([pixels[key] for key in keys]))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    # The data may have moved: the end of the path decides.
    moved = stored(None, [sample('/elsewhere/' + keys[0])])
    torch.testing.assert_close(moved, expected[:1], rtol=1e-5, atol=1e-6)
    assert not stored.state_dict() and not list(stored.parameters())


def test_standardised_targets(photos, tmp_path):
    root, pixels = photos
    out, teacher = tmp_path / 'targets.safetensors', flat_teacher()
    extract_targets(teacher, root, out)
    raw = teacher(torch.stack([pixels[key] for key in sorted(pixels)]))
    mean, std = raw.mean(0), raw.std(0, correction=0)
    samples = [sample(root / key) for key in sorted(pixels)]
    result = StoredTeacher(str(out), standardize=True)(None, samples)
    torch.testing.assert_close(result, (raw - mean) / std, rtol=1e-4, atol=1e-5)
    live = FrozenTeacher(teacher.model.network, standardize=str(out))
    images = torch.stack([pixels[key] for key in sorted(pixels)])
    torch.testing.assert_close(live(images), result, rtol=1e-4, atol=1e-5)


def test_targets_are_of_the_images_that_training_reads(photos, tmp_path):
    root, pixels = photos
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (8, 8)).save(root / 'turned.webp', exif=exif)
    (root / '._turned.webp').write_bytes(bytes(99))
    (root / 'notes.txt').touch()
    (root / 'page.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0')
    out = tmp_path / 'targets.npz'
    with pytest.raises(ValueError, match='page.jpg" cannot be read as an image'):
        extract_targets(flat_teacher(), root, out)
    (root / 'page.jpg').unlink()
    assert extract_targets(flat_teacher(), root, out)[0] == len(pixels) + 1


def test_images_are_resized_and_cropped(tmp_path):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 255  # the square in the middle
    (tmp_path / 'data').mkdir()
    cv2.imwrite(str(tmp_path / 'data' / 'wide.png'), image)
    extract_targets(
        nn.Flatten(), tmp_path / 'data', tmp_path / 'o.npz', image_size=10, half=True
    )
    with np.load(tmp_path / 'o.npz') as content:
        assert content['targets'].dtype == np.float16
        assert content['targets'].shape == (1, 300) and (content['targets'] == 1).all()


def test_stored_targets_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='extract_targets.py'):
        StoredTeacher(str(tmp_path / 'none.npz')).init_weights()
    with pytest.raises(FileNotFoundError, match='data'):
        extract_targets(nn.Flatten(), tmp_path / 'data', tmp_path / 'o.npz')
    write_targets(tmp_path / 't.npz', ['a/0.png'], torch.ones(1, 2))
    stored = StoredTeacher(str(tmp_path / 't.npz'))
    with pytest.raises(ValueError, match='img_path="b/0.png" has no target'):
        stored(None, [sample('b/0.png')])
    with pytest.raises(ValueError, match='without img_path'):
        stored(None, [DataSample()])
    (tmp_path / 'bad.safetensors').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='is no file of targets'):
        StoredTeacher(str(tmp_path / 'bad.safetensors')).init_weights()
    with pytest.raises(ValueError, match='must end in'):
        write_targets(tmp_path / 't.pkl', ['a'], torch.ones(1, 2))


def test_tool_reads_the_teacher_from_a_config(photos, tmp_path):
    import importlib.util
    from pathlib import Path

    tool = Path(__file__).parents[2] / 'tools/extract_targets.py'
    spec = importlib.util.spec_from_file_location('extract_targets_tool', tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = dict(type='mmpretrain.ResNet', depth=18)
    teacher = dict(type='mergevq_mm.FrozenTeacher', network=network, random_init=True)
    Config(dict(teacher=teacher)).dump(tmp_path / 'config.py')
    out = tmp_path / 'o.safetensors'
    module.main([str(tmp_path / 'config.py'), str(photos[0]), str(out)])
    samples = [sample(photos[0] / 'val/3/00001.png')]
    result = StoredTeacher(str(out))(None, samples)
    expected = MODELS.build(teacher)(photos[1]['val/3/00001.png'][None])
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    Config(dict(model=dict())).dump(tmp_path / 'empty.py')
    with pytest.raises(ValueError, match='neither teacher nor'):
        module.main([str(tmp_path / 'empty.py'), str(photos[0]), str(out)])


# -------------------------------------------------------------------------- EMA


class Backbone(nn.Module):
    """Class token = mean colour times a weight; with a buffer and dropout."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, x, mode='features'):
        assert mode == 'encode'
        cls = self.dropout(self.linear(x.mean((2, 3))))
        return MergedTokens(cls, cls, cls, cls, (1, 1))


def students():
    return dict(backbone=Backbone(), projector=nn.Linear(4, 5))


def test_ema_teacher_equals_a_slow_loop():
    student = students()
    teacher = EMATeacher(momentum=0.25)
    teacher.attach(**student)
    teacher.train()
    weight = student['backbone'].linear.weight
    with torch.no_grad():
        weight.add_(1.0)  # init_weights of the student
    teacher.update(**student)
    average = weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
            student['backbone'].calls += 1
        teacher.update(**student)
        average = 0.75 * average + 0.25 * weight.detach()
    copied = teacher.average.module['backbone']
    torch.testing.assert_close(copied.linear.weight, average)
    assert copied.calls == 3 and not copied.training
    x = view()
    cls = F.linear(x.mean((2, 3)), average, student['backbone'].linear.bias)
    expected = student['projector'](cls).detach()
    target = teacher(x)
    torch.testing.assert_close(target, expected)
    assert not target.requires_grad


def test_ema_teacher_is_saved_and_takes_no_gradient():
    student = students()
    teacher, resumed = EMATeacher(), EMATeacher()
    teacher.attach(**student)
    teacher.update(**student)
    teacher.update(
        **{k: copy.deepcopy(v).requires_grad_() for k, v in students().items()}
    )
    resumed.attach(**students())
    resumed.load_state_dict(teacher.state_dict(), strict=True)
    x = view()
    assert torch.equal(resumed(x), teacher(x))
    assert resumed.average.steps == 2  # the next update averages, it does not copy
    assert not any(p.requires_grad for p in teacher.parameters())
    assert next(student['backbone'].parameters()).requires_grad


def test_ema_momentum_follows_a_cosine():
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    hub.update_info('iter', 0)  # its update is the first of ten
    student = students()
    teacher = EMATeacher(momentum=0.2, end_momentum=0.0)
    teacher.attach(**student)
    weight = student['projector'].weight
    teacher.update(**student)
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    teacher.update(**student)
    share = 0.2 * (np.cos(np.pi / 10) + 1) / 2
    expected = before + share
    torch.testing.assert_close(teacher.average.module['projector'].weight, expected)


@pytest.mark.parametrize('accumulate', [1, 4])
def test_the_cosine_ends_with_the_run_whatever_a_step_takes(accumulate):
    """Updates come with optimizer steps, the run's length counts batches."""
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 40)
    student = students()
    teacher = EMATeacher(momentum=0.004, end_momentum=0.0001)
    teacher.attach(**student)
    teacher.update(**student)
    for iteration in range(accumulate - 1, 40, accumulate):
        hub.update_info('iter', iteration)
        teacher.update(**student)
    assert teacher.average.share() == pytest.approx(0.0001)


def test_ema_teacher_refuses_wrong_use():
    with pytest.raises(ValueError, match='momentum=1.0'):
        EMATeacher(momentum=1.0)
    with pytest.raises(ValueError, match='AlignmentHead'):
        EMATeacher().attach(backbone=Backbone())
    with pytest.raises(RuntimeError, match='attach'):
        EMATeacher()(view())


def test_pool_size_keeps_a_coarse_layout():
    network = nn.Identity()
    teacher = FrozenTeacher(network, pool_size=2, random_init=True)
    view = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).float()
    target = teacher(view)
    assert target.shape == (2, 12)
    assert target[0, 0] == view[0, 0, :2, :2].mean()
    assert target[1, 11] == view[1, 2, 2:, 2:].mean()
