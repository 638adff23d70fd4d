"""What the page shows of a sample in the making, without the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_generator
import tiny_mergevq as tiny
import torch

from mergevq_mm.models import MergeAR
from mergevq_mm.models.generators.generation_request import seeds_of
from mergevq_mm.registry import MODELS
from mergevq_mm.visualization.merge_map import palette
from mergevq_mm.web import drawing, generator
from mergevq_mm.web.streaming import Moment, check_raster, stream_codes

WINDOW = 3


def build_mergear(folder: Path) -> MergeAR:
    """A small MergeAR on the tiny tokenizer, with codes that repeat."""
    torch.manual_seed(0)
    torch.save({'state_dict': tiny.build_model().state_dict()}, folder / 't.pth')
    model = MODELS.build(
        dict(
            type='mergevq_mm.MergeAR',
            tokenizer=dict(
                type='mergevq_mm.FrozenTokenizer',
                model=tiny.model_cfg(),
                checkpoint=str(folder / 't.pth'),
            ),
            arch=dict(
                embed_dims=32, num_layers=1, num_heads=2, head_layers=1, ffn_multiple=32
            ),
            num_classes=4,
            window=WINDOW,
            keep=dict(target=6, candidates=[6, 9], family='uniform'),
            sample_cfg=dict(temperature=0.3, guidance=1.5),
        )
    )
    for head in model.head.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return model.eval()


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> MergeAR:
    return build_mergear(tmp_path_factory.mktemp('mergear'))


@pytest.mark.parametrize('cache', ['compressed', 'full'])
def test_stream_is_what_sample_codes_draws(
    model: MergeAR, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With blocks of 16 a compressed cache of 16 tokens would be the larger one.
    monkeypatch.setattr('mergevq_mm.models.generators.mergear.CACHE_BLOCK', 1)
    options = dict(temperature=0.3, guidance=1.5)
    seed = seeds_of(5, [2])[0]
    moments = list(stream_codes(model, 2, 6, seed, cache, **options))
    drawn = model.sample_codes(torch.tensor([2]), 6, [seed], cache=cache, **options)
    right = drawn.index[0].tolist()
    assert len(set(right)) < 16 == len(moments)  # something repeats
    assert [m.drawn for m in moments] == list(range(1, 17))
    for number, moment in enumerate(moments, 1):
        assert moment.index.tolist() == right[:number] + [-1] * (16 - number)
        # The token drawn last is not in the cache yet.
        placed = sorted(moment.slots[moment.slots >= 0].tolist())
        firsts = {right.index(code) for code in right[: number - 1]}
        seen = set(range(number - 1))
        if cache == 'compressed':
            # At the last query's place, older repetitions are gone.
            seen = firsts | {t for t in seen if t + WINDOW > number - 2}
        assert placed == [0, 1, *sorted(t + 2 for t in seen)]
        kept = moment.slots[moment.kept].tolist()
        assert sorted(kept) == [0, 1, *sorted(t + 2 for t in firsts)]
    assert int(drawn.stats['occupied'][0]) == len(placed)
    # Bytes of both sequences of guidance, as everywhere, are of one slot of one here.
    bytes_of_all = int(drawn.stats['cache_bytes'][0])
    assert moment.slot_bytes * len(moment.slots) * 2 == bytes_of_all


def test_watch_ends_with_the_image_of_the_generator(model: MergeAR) -> None:
    class Inferencer:
        """What the page uses of one."""

    Inferencer.model = model
    frames = list(generator.watch(Inferencer, 3, 6, 7, 1.5, 'compressed', 0))
    assert len(frames) == 16 and 'class 3' in frames[0][1]
    assert 'distinct codes** in 16 tokens' in frames[-1][1]
    images, drawn = model.generate([3], keep=6, seeds=seeds_of(7, [3]))
    assert frames[-1][1].startswith(f'**{int(drawn.stats["distinct"][0])} distinct')
    seed = seeds_of(7, [3])[0]
    options = dict(temperature=0.3, guidance=1.5)
    last = list(stream_codes(model, 3, 6, seed, 'full', **options))[-1]
    shown = generator.decode_so_far(model, last)
    grey = ((images[0] / 2 + 0.5) * 255).permute(1, 2, 0).numpy()
    assert np.abs(shown - grey).max() < 1.01
    assert not np.array_equal(frames[0][0], frames[-1][0])


def test_only_rasters_can_be_watched(model: MergeAR) -> None:
    check_raster(model)
    with pytest.raises(ValueError, match='FakeGenerator does not fill a raster'):
        check_raster(tiny_generator.build())
    with pytest.raises(ValueError, match='class 4; give classes from 0 to 3'):
        next(stream_codes(model, 4, 6, 0, 'full'))


def test_colours_follow_the_codes() -> None:
    colours, first = drawing.code_colours(np.array([9, 4, 9, -1]))
    assert first.tolist() == [True, True, False, False]
    assert colours[0].tolist() == colours[2].tolist() == palette()[0].tolist()
    assert colours[1].tolist() == palette()[1].tolist()
    assert colours[3].tolist() == list(drawing._EMPTY)


def test_pictures_of_a_moment() -> None:
    """Cells of 80 pixels: colours where they belong, dots on what is kept."""
    index = np.array([5, 5, 7, -1] + [-1] * 12)
    slots, kept = np.full(9, -1), np.zeros(9, bool)
    slots[:5], kept[:5] = [0, 1, 3, 2, 4], [True, True, False, True, True]
    moment = Moment(3, index, slots, kept, prefix=2, slot_bytes=2048)
    raster = drawing.draw_raster(moment, (4, 4))
    red, blue = (colour.tolist() for colour in palette()[:2])
    for column, colour in enumerate([red, red, blue, list(drawing._EMPTY)]):
        assert raster[10, 80 * column + 10].tolist() == colour
    assert raster[39, 39].tolist() == list(drawing._DOT)
    assert raster[39, 119].tolist() == red  # a repetition
    cache = drawing.draw_cache(moment, 16)
    assert cache[10, 10].tolist() == cache[10, 90].tolist() == list(drawing._PREFIX)
    pale = [value // 2 + 127 for value in red]
    assert cache[10, 170].tolist() == pale == cache[39, 199].tolist()
    assert cache[10, 250].tolist() == red and cache[90, 10].tolist() == blue
    assert cache[39, 279].tolist() == list(drawing._DOT)
    assert (cache[250:] == 255).all()  # no slots here
    image = np.full((8, 8, 3), 200, np.uint8)
    faded = drawing.fade_missing(image, moment, (4, 4))
    assert faded[10, 10].tolist() == [200] * 3 and faded[10, 250].min() > 240
    assert drawing.draw_moment(image, moment, (4, 4)).shape[1] > 3 * drawing.SIDE
