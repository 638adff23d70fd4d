"""The tab of the page where a region is painted and drawn anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mergevq_mm.apis import EditingInferencer
from mergevq_mm.apis.editing_inferencer import REGIONS, Edit, named_region

from .parts import image_choice, picture, words_of
from .uploads import ForeignFileError, read_upload
from .values import choice, number, whole

SIDE = 320  # pixels of a picture to paint on, at least
BRUSH = '#6366f1'
NO_CLASS = 'none'
MAX_GUIDANCE = 10
MAX_SEED = 2**32 - 1
VARIANTS = 4
MAX_LAYERS = 4
PAINTED = 'painted'
START = 'Pick an image, say what is to be drawn anew, and press the button.'
IN_ORDER = ' This generator draws row by row: what is drawn anew reaches to the end.'


def canvas_of(edit: EditingInferencer, image: np.ndarray) -> np.ndarray:
    """An image as the generator's tokenizer sees it, large enough to paint on.

    Args:
        edit (EditingInferencer): Of a generator.
        image (np.ndarray): H×W×3 uint8.

    Returns:
        np.ndarray: A whole number of times as large as the tokenizer's images.
    """
    from mergevq_mm.visualization.merge_map import default_scale
    from mergevq_mm.visualization.merging import smooth_enlarge

    pixels = edit.preparation(image)
    return smooth_enlarge(pixels, default_scale(pixels.shape[:2], SIDE))


def painted(payload: Any, shape: Sequence[int]) -> np.ndarray:
    """What a visitor has painted.

    Args:
        payload (Any): Of gradio's editor: a dict with ``layers``, each of them with the
            ``path`` of a file of the page. Anybody may have written it.
        shape (Sequence[int]): Height and width of the canvas.

    Returns:
        np.ndarray: H×W bool.

    Raises:
        ForeignFileError: If a layer is no file of the page.
        ValueError: If a layer has another size than the canvas, or there are many.
    """
    layers = payload.get('layers') if isinstance(payload, dict) else None
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise ValueError('Nothing is painted; paint over what is to be drawn anew.')
    marked = np.zeros(tuple(shape[:2]), dtype=bool)
    for layer in layers:
        # Behind what nobody has painted it is black.
        pixels = read_upload(layer, (0, 0, 0))
        if pixels is None:
            continue
        if pixels.shape[:2] != marked.shape:
            raise ValueError(
                f'What is painted has {pixels.shape[1]}×{pixels.shape[0]} pixels, not '
                f'the {marked.shape[1]}×{marked.shape[0]} of the image; paint again.'
            )
        marked |= pixels.max(axis=2) > 120  # half of the brush
    return marked


def regions_of(model: Any, paints: bool) -> list[str]:
    """The regions to choose from.

    Args:
        model (TokenGenerator): The generator.
        paints (bool): Whether there is a canvas for one that draws any region.

    Returns:
        list[str]: Names; of one that draws row by row, those that reach to the end.
    """
    if model.any_region:
        return [PAINTED, *REGIONS] if paints else list(REGIONS)
    return [name for name, (_, *ends) in REGIONS.items() if ends == [1, 0, 1]]


def marked_pixels(
    canvas: np.ndarray, pixels: np.ndarray, region: Any, payload: Any
) -> np.ndarray:
    """The mask of a region.

    Args:
        canvas (np.ndarray): Of :func:`canvas_of`.
        pixels (np.ndarray): The image that it shows, H×W×3.
        region (Any): 'painted', or a name of a ready-made one.
        payload (Any): See :func:`painted`.

    Returns:
        np.ndarray: H×W bool.

    Raises:
        ValueError: If the region is not known, or nothing is painted.
    """
    rows, columns = pixels.shape[:2]
    if choice('Region', region, [PAINTED, *REGIONS]) != PAINTED:
        return named_region(region, (rows, columns))
    scale = canvas.shape[0] // rows
    # H·s×W·s -> H×s×W×s: a pixel is in the region if any of it is painted.
    marked = painted(payload, canvas.shape).reshape(rows, scale, columns, scale)
    if not marked.any():
        raise ValueError('Nothing is painted; paint over what is to be drawn anew.')
    return marked.any(axis=(1, 3))


def draw_anew(
    edit: EditingInferencer,
    image: np.ndarray,
    payload: Any,
    region: Any,
    label: Any,
    keep: Any,
    seed: Any,
    guidance: Any,
) -> tuple[np.ndarray, str]:
    """Draw what is painted anew.

    Args:
        edit (EditingInferencer): Of a generator.
        image (np.ndarray): H×W×3 uint8.
        payload (Any): See :func:`painted`.
        region (Any): See :func:`marked_pixels`.
        label (Any): A class, or 'none'.
        keep (Any): K.
        seed (Any): Of the variants.
        guidance (Any): 1 is none.

    Returns:
        tuple[np.ndarray, str]: The image, what was drawn anew and the variants side by
        side, and a sentence in Markdown.

    Raises:
        ValueError: If one of them is out of range; anybody may have written it.
    """
    from mergevq_mm.visualization import shade_region, strip
    from mergevq_mm.visualization.merging import smooth_enlarge

    model = edit.model
    label = (
        None if label == NO_CLASS else whole('Class', label, 0, model.num_classes - 1)
    )
    keep = choice('K', keep, list(model.keeps))
    seed = whole('Seed', seed, 0, MAX_SEED)
    guidance = number('Guidance', guidance, 1, MAX_GUIDANCE)
    canvas, pixels = canvas_of(edit, image), edit.preparation(image)
    mask = marked_pixels(canvas, pixels, region, payload)
    start = time.perf_counter()
    options = {'label': label, 'keep': keep, 'seed': seed, 'guidance': guidance}
    # What is painted on has been prepared; a pipeline may crop it once more.
    made = edit.forward(
        [Edit('', '', pixels, mask, place) for place in range(VARIANTS)], **options
    )
    spent = time.perf_counter() - start
    before, redrawn = made[0]['original'], made[0]['region']
    shown = [before, shade_region(before, redrawn), *(one['image'] for one in made)]
    titles = ['image', 'drawn anew', *(f'variant {one["place"]}' for one in made)]
    scale = max(1, canvas.shape[0] // pixels.shape[0] // 2)
    page = strip([smooth_enlarge(one, scale) for one in shown], titles, columns=3)
    return page, (
        f'**{redrawn.mean():.0%} of the tokens** drawn anew, {VARIANTS} times, in '
        f'{spent * 1000:,.0f} ms; the codes of all others are the same as before.'
    )


def editor_tab(
    gr: Any, edit: EditingInferencer, examples: Sequence[np.ndarray]
) -> tuple[Any, list, list]:
    """Lay the tab out, within a tab of a page.

    Args:
        gr (Any): The package gradio.
        edit (EditingInferencer): Of a generator.
        examples (Sequence[np.ndarray]): Images to pick from, H×W×3 uint8.

    Returns:
        tuple[Any, list, list]: What puts the image on the canvas when the page loads:
        the function, its inputs and its outputs, none where there is no canvas.
    """
    words = words_of(gr)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = image_choice(gr, examples, 'edit_')
            options = _options(gr, edit.model)
        with gr.Column(scale=3):
            regions = regions_of(edit.model, words.paints)
            canvas = _canvas(gr) if PAINTED in regions else None
            region = gr.Radio(
                regions, value=regions[0], label='Region', elem_id='region'
            )
            button = gr.Button('Draw anew', variant='primary', elem_id='redraw')
            shown = picture(gr, 'Image, region, variants', 'edited')
            more = '' if edit.model.any_region else IN_ORDER
            note = gr.Markdown(START + more, elem_id='edit_note')

    def put(payload: Any) -> dict | None:
        try:
            pixels = read_upload(payload, edit.preparation.background)
        except ValueError as error:  # a foreign file among them
            raise gr.Error(str(error), print_exception=False) from None
        if pixels is None:
            return None
        large = canvas_of(edit, pixels)
        return {'background': large, 'layers': [], 'composite': large}

    def redraw(payload: Any, *values: Any) -> tuple[np.ndarray | None, str]:
        try:
            pixels = read_upload(payload, edit.preparation.background)
            if pixels is None:
                return None, START
            return draw_anew(edit, pixels, *values)
        except ForeignFileError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except ValueError as error:
            return None, str(error)

    if canvas is not None:
        image.change(put, image, canvas, trigger_mode='always_last', **words.silent)
    # Where there is no canvas, nothing looks at what stands for it.
    inputs = [image, canvas or image, region, *options]
    button.click(redraw, inputs, [shown, note], trigger_mode='once', **words.silent)
    return put, [image], [canvas] if canvas is not None else []


def _options(gr: Any, model: Any) -> list:
    """Class, K, seed and guidance."""
    default_keep = model.sample_cfg.get('keep', model.keep_sampler.target)
    guidance = model.sample_cfg.get('guidance', 1.0)
    guidance = guidance[0] if isinstance(guidance, (list, tuple)) else guidance
    classes = [NO_CLASS, *range(model.num_classes)]
    label = gr.Dropdown(classes, value=NO_CLASS, label='Class', elem_id='as')
    keep = gr.Dropdown(list(model.keeps), value=default_keep, label='K')
    with gr.Accordion('More', open=False):
        seed = gr.Number(0, label='Seed', precision=0, minimum=0)
        scale = gr.Slider(1, MAX_GUIDANCE, guidance, step=0.1, label='Guidance')
    return [label, keep, seed, scale]


def _canvas(gr: Any) -> Any:
    """A picture to paint on, with one brush."""
    return gr.ImageEditor(
        label='Paint over what is to be drawn anew',
        sources=(),
        transforms=(),
        layers=False,
        format='png',
        brush=gr.Brush(
            default_size=24, colors=[BRUSH], default_color=BRUSH, color_mode='fixed'
        ),
        elem_id='canvas',
        **words_of(gr).bare,
    )
