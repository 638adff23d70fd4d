"""The tab of the page where a raster fills up."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mergevq_mm.apis import GenerationInferencer

from .drawing import draw_moment
from .parts import picture, words_of
from .streaming import Moment, stream_codes
from .values import choice, number, whole

CACHES = ('compressed', 'full')
MAX_GUIDANCE = 10
MAX_PAUSE = 200  # ms after a token; who waits for the tab waits for that, too
MAX_SEED = 2**32 - 1
FRAMES = 64  # of a sample, at most


def watch(
    generate: GenerationInferencer,
    label: int,
    keep: int,
    seed: int,
    guidance: float,
    cache: str,
    pause: float,
) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures of a sample in the making.

    Args:
        generate (GenerationInferencer): A MergeAR.
        label (int): The class.
        keep (int): K.
        seed (int): The sample is that of :class:`GenerationInferencer` with this seed.
        guidance (float): 1 is none.
        cache (str): 'compressed' or 'full'.
        pause (float): Milliseconds to wait after a token.

    Yields:
        tuple[np.ndarray, str]: The picture, and a sentence in Markdown.

    Raises:
        ValueError: If one of them is out of range; anybody may have written it.
    """
    from mergevq_mm.models.generators.generation_request import seeds_of

    model = generate.model
    label = whole('Class', label, 0, model.num_classes - 1)
    keep = choice('K', keep, list(model.keeps))
    seed = whole('Seed', seed, 0, MAX_SEED)
    guidance = number('Guidance', guidance, 1, MAX_GUIDANCE)
    cache = choice('Cache', cache, CACHES)
    pause = number('Pause', pause, 0, MAX_PAUSE)
    names = ('temperature', 'top_k', 'top_p', 'guidance_schedule')
    options = {k: v for k, v in model.sample_cfg.items() if k in names}
    sample_seed = seeds_of(seed, [label])[0]
    every = math.ceil(model.tokenizer.length / FRAMES)
    spent, start = 0.0, time.perf_counter()
    for moment in stream_codes(
        model, label, keep, sample_seed, cache, guidance=guidance, **options
    ):
        spent += time.perf_counter() - start
        last = moment.drawn == len(moment.index)
        if moment.drawn % every == 0 or last:
            image = decode_so_far(model, moment)
            note = f'Drawing class {label} …'
            if last:
                tokens = len(moment.index) / spent
                note = (
                    f'**{len(set(moment.index.tolist()))} distinct codes** in '
                    f'{len(moment.index)} tokens, {spent * 1000:,.0f} ms without the '
                    f'pictures, {tokens:,.0f} tokens a second.'
                )
            yield draw_moment(image, moment, model.grid), note
            if not last:
                time.sleep(pause / 1000 * every)
        start = time.perf_counter()


def decode_so_far(model: Any, moment: Moment) -> np.ndarray:
    """What the codes that are there decode to; the last one stands for the rest.

    Args:
        model (MergeAR): The generator.
        moment (Moment): What is there.

    Returns:
        np.ndarray: H×W×3 uint8.
    """
    from mergevq_mm.visualization import to_uint8

    index = moment.index.copy()
    index[moment.drawn :] = index[moment.drawn - 1]
    with torch.inference_mode():
        codes = torch.from_numpy(index)[None].to(model.device)
        image = model.tokenizer.decode(codes, model.grid)[0]
    return to_uint8(image.float() * 0.5 + 0.5)


def generator_tab(gr: Any, generate: GenerationInferencer) -> None:
    """Lay the second tab out, within a tab of a page.

    Args:
        gr (Any): The package gradio.
        generate (GenerationInferencer): A MergeAR.
    """
    model = generate.model
    keeps, classes = list(model.keeps), model.num_classes
    default_keep = model.sample_cfg.get('keep', model.keep_sampler.target)
    guidance = model.sample_cfg.get('guidance', 1.0)
    guidance = guidance[0] if isinstance(guidance, (list, tuple)) else guidance
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            if classes <= 100:
                label = gr.Dropdown(
                    list(range(classes)), value=0, label='Class', elem_id='class'
                )
            else:
                label = gr.Slider(0, classes - 1, 0, step=1, label='Class')
            keep = gr.Dropdown(keeps, value=default_keep, label='K')
            cache = gr.Radio(list(CACHES), value=CACHES[0], label='Cache')
            seed = gr.Number(0, label='Seed', precision=0, minimum=0)
            with gr.Accordion('More', open=False):
                scale = gr.Slider(1, MAX_GUIDANCE, guidance, step=0.1, label='Guidance')
                pause = gr.Slider(
                    0,
                    MAX_PAUSE,
                    40,
                    step=10,
                    label='Pause after a token, ms',
                    elem_id='pause',
                )
            draw = gr.Button('Draw', variant='primary', elem_id='draw')
        with gr.Column(scale=3):
            shown = picture(gr, 'Image, codes, cache', 'drawn')
            note = gr.Markdown(
                'Pick a class. The codes come one by one, row by row. What repeats a '
                'code leaves the compressed cache when the window has moved on.',
                elem_id='note',
            )

    def show(*values: Any) -> Iterator[tuple[np.ndarray | None, str]]:
        try:
            yield from watch(generate, *values)
        except ValueError as error:
            yield None, str(error)

    inputs = [label, keep, seed, scale, cache, pause]
    gr.on(
        [draw.click, label.input],
        show,
        inputs,
        [shown, note],
        trigger_mode='once',
        **words_of(gr).silent,
    )
