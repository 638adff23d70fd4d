"""Methods as CUDA graphs: which shapes are captured, and that nothing else changes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from graph_stand_in import StandIn
from torch import Tensor

from mergevq_mm.models.backbones import MergeVQEncoder
from mergevq_mm.models.utils.graphed_methods import SHAPES, use_graphs

ARCH = dict(stem='patch', embed_dims=16, patch_size=4, num_layers=2, num_heads=2)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn().take_place(monkeypatch)


def make() -> MergeVQEncoder:
    return MergeVQEncoder(ARCH, img_size=16, layer_scale=1.0, out_indices=(0, 1)).eval()


def images(number: int = 2, size: int = 16) -> Tensor:
    return torch.randn(number, 3, size, size)


def same(one: tuple, other: tuple) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@torch.no_grad()
def test_a_shape_that_comes_again_is_captured(graphs: StandIn) -> None:
    plain = make()
    model = use_graphs(copy.deepcopy(plain))
    found = []
    for turn in range(4):
        x = images()
        found.append((model.encode(x, 6), plain.encode(x, 6)))
        assert graphs.captures == (turn > 0)
    for one, other in found:  # no later call has written over what was returned
        same(one, other)
    assert graphs.replays == 3
    for x, keep in ((images(3), 6), (images(), 9), (images(2, 24), 9)):
        same(model.encode(x, keep), plain.encode(x, keep))
    assert graphs.captures == 1  # of each of these shapes one has come
    for _ in range(2):  # another method
        x = images()
        same(model(x), plain(x))
    assert graphs.captures == 2
    assert list(model.state_dict()) == list(plain.state_dict())


@torch.no_grad()
def test_precision_belongs_to_the_shape(graphs: StandIn) -> None:
    plain = make()
    model = use_graphs(copy.deepcopy(plain))
    for enabled in (True, True, False, False, True):
        x = images()
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            same(model.encode(x, 6), plain.encode(x, 6))
    assert graphs.captures == 2


def test_what_needs_more_than_a_result_runs_as_it_is(graphs: StandIn) -> None:
    model, x = use_graphs(make()), images()
    for _ in range(3):  # weights want gradients
        model.encode(x, 6).tokens.sum().backward()
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model.encode(x, 6)
        model.eval()
        seen = []
        hook = model.layers[1].register_forward_hook(lambda *args: seen.append(args))
        for _ in range(3):
            model.encode(x, 6)
        assert len(seen) == 3 and graphs.captures == 0
        hook.remove()
    model.requires_grad_(False)
    for _ in range(3):  # nothing wants gradients, although they are on
        found = model.encode(x, 6)
    assert graphs.captures == 1 and not found.tokens.requires_grad


def test_inference_mode(graphs: StandIn) -> None:
    plain = make()
    model = use_graphs(copy.deepcopy(plain))
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            x = images()
            same(model.encode(x, 6), plain.encode(x, 6))
    assert graphs.captures == 1


@torch.no_grad()
def test_weights_that_moved_are_captured_anew(graphs: StandIn) -> None:
    model, x = use_graphs(make()), images()
    first = [model.encode(x, 6) for _ in range(2)][1]
    state = {k: v if k == 'pos_grid' else 2 * v for k, v in model.state_dict().items()}
    model.load_state_dict(state)  # in place: the same graph reads the new values
    assert not torch.equal(model.encode(x, 6).tokens, first.tokens)
    assert (graphs.captures, graphs.waits) == (1, 0)
    model.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)
    for _ in range(2):
        model.encode(x, 6)
    assert (graphs.captures, graphs.waits) == (2, 1)


@torch.no_grad()
def test_few_shapes_are_kept(graphs: StandIn) -> None:
    model = use_graphs(make())
    for keep in range(4, 4 + SHAPES + 2):
        for _ in range(2):
            model.encode(images(), keep)
    assert graphs.captures == SHAPES + 2 and graphs.waits == 2
    assert len(model.encode_embedded.recordings) == SHAPES


@torch.no_grad()
def test_copies_have_methods_of_their_own(graphs: StandIn) -> None:
    model, x = use_graphs(make()), images()
    for _ in range(2):
        expected = model.encode(x, 6)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.encode_embedded.module is other
        assert not other.encode_embedded.recordings
        same(other.encode(x, 6), expected)
    assert use_graphs(model).encode_embedded.recordings  # once is enough


@torch.no_grad()
def test_what_cannot_be_captured_goes_on(
    graphs: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(work: Callable) -> None:
        raise RuntimeError('operation not permitted when stream is capturing')

    plain = make()
    model = use_graphs(copy.deepcopy(plain))
    monkeypatch.setattr(graphs, 'capture', capture)
    x = images()
    model.encode(x, 6)
    with pytest.warns(RuntimeWarning, match='encode_embedded cannot be captured as a'):
        same(model.encode(x, 6), plain.encode(x, 6))
    same(model.encode(x, 6), plain.encode(x, 6))  # without another warning


@pytest.mark.gpu
@pytest.mark.parametrize('device', ['cuda:0', 'cuda:1'])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_on_a_gpu(device: str, dtype: torch.dtype | None) -> None:
    if torch.device(device).index >= torch.cuda.device_count():
        pytest.skip('there is one GPU')
    plain = make().to(device)
    model = use_graphs(copy.deepcopy(plain))
    for _ in range(4):
        x = images().to(device)
        with torch.inference_mode(), torch.autocast('cuda', dtype, dtype is not None):
            same(model.encode(x, 6), plain.encode(x, 6))
            for one, other in zip(model(x), plain(x), strict=True):
                assert torch.equal(one, other)
    recordings = model.encode_embedded.recordings
    assert len(recordings) == 1 and None not in recordings.values()
