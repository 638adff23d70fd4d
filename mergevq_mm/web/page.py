"""The page: an image with fewer tokens, a raster that fills up, a region to paint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergevq_mm.apis import (
    EditingInferencer,
    GenerationInferencer,
    ReconstructionInferencer,
)
from mergevq_mm.apis.known_images import is_foreign, known_images, own_psnrs

from . import offline
from .editor import editor_tab
from .generator import generator_tab
from .guard import Guard
from .parts import image_choice, import_gradio, picture, words_of
from .streaming import check_raster
from .uploads import MAX_BYTES, ForeignFileError, files_of_page, read_upload
from .values import whole

if TYPE_CHECKING:
    import gradio

MAX_WAITING = 64  # events of all visitors
INTRODUCTION = """\
# MergeVQ
An image becomes a few tokens, each with a code of {bits} bits. Here you see which parts
of it share a token, and what comes back.{trained}
"""


def build_page(
    reconstruct: ReconstructionInferencer,
    generate: GenerationInferencer | None = None,
    examples: Sequence[np.ndarray] = (),
    edit: EditingInferencer | None = None,
) -> gradio.Blocks:
    """Build the page.

    Args:
        reconstruct (ReconstructionInferencer): The tokenizer.
        generate (GenerationInferencer, optional): A MergeAR, for the second tab.
            Defaults to None.
        examples (Sequence[np.ndarray]): Images to pick from, H×W×3 uint8.
        edit (EditingInferencer, optional): Of any generator, for the last tab. Defaults
            to None.

    Returns:
        gradio.Blocks: Ready to launch.

    Raises:
        ValueError: If gradio is missing, or the generator fills no raster.
    """
    gr = import_gradio()
    if generate is not None:
        check_raster(generate.model)
    words = words_of(gr)
    with gr.Blocks(title='MergeVQ', analytics_enabled=False, **words.blocks) as page:
        bits = reconstruct.parts.quantizer.bits
        known = known_images(reconstruct)
        trained = f' This model knows {known}.' if known else ''
        gr.Markdown(INTRODUCTION.format(bits=bits, trained=trained))
        with gr.Tab('Merge and reconstruct'):
            view, inputs, outputs = _tokenizer_tab(gr, reconstruct, examples)
        if generate is not None:
            with gr.Tab('Generate'):
                generator_tab(gr, generate)
        page.load(view, inputs, outputs, **words.silent)
        if edit is not None:
            with gr.Tab('Edit'):
                put, inputs, outputs = editor_tab(gr, edit, examples)
            if outputs:
                page.load(put, inputs, outputs, **words.silent)
    page.queue(max_size=MAX_WAITING)
    return page


def launch(page: gradio.Blocks, host: str, port: int) -> None:
    """Start to serve a page, in the background.

    Args:
        page (gradio.Blocks): Of :func:`build_page`.
        host (str): Address to listen on.
        port (int): Its port.

    Raises:
        ValueError: If the port is taken.
    """
    gr = import_gradio()
    from starlette.middleware import Middleware

    guard = Middleware(Guard, host=host, fixed=files_of_page())
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            # Of what we do not say ourselves, nothing is told: it may name files.
            show_error=False,
            max_file_size=MAX_BYTES,
            prevent_thread_lock=True,
            quiet=True,
            app_kwargs={'middleware': [*offline.middleware(), guard]},
            **words_of(gr).launch,
        )
    except OSError as error:
        raise ValueError(f'port={port} cannot be had ({error}); try another.') from None


# ------------------------------------------------------------------------ tokenizer


def view_tokens(
    reconstruct: ReconstructionInferencer, image: np.ndarray, keep: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """What the first tab shows.

    Args:
        reconstruct (ReconstructionInferencer): The tokenizer.
        image (np.ndarray): H×W×3 uint8.
        keep (int): K.

    Returns:
        tuple: Groups outlined over the image, groups in colours, the reconstruction,
        and a table of numbers in Markdown.
    """
    from mergevq_mm import visualization as vis
    from mergevq_mm.visualization.merge_map import default_scale
    from mergevq_mm.visualization.merging import smooth_enlarge

    start = time.perf_counter()
    result = reconstruct(image, keep=keep, fit='crop')[0]
    seconds = time.perf_counter() - start
    made, original, grid = (
        result['reconstructions'][keep],
        result['original'],
        result['grid'],
    )
    scale = default_scale(original.shape[:2], 320)
    group = made['group']
    outlined = vis.outline_groups(original, group, grid, scale)
    coloured = vis.draw_merge_map(original, group, grid, scale=scale)
    back = smooth_enlarge(made['image'], scale)
    raw = original.size * 8
    total = made['code_bits'] + made['map_bits']
    numbers = (
        '| tokens | bits: codes + map | bits a pixel | of 8-bit RGB | PSNR | time |\n'
        '| --- | --- | --- | --- | --- | --- |\n'
        f'| **{keep}** of {len(group)} '
        f'| {made["code_bits"]:,} + {made["map_bits"]:,} = **{total:,}** '
        f'| {made["bpp"]:.3f} | 1/{raw / total:,.0f} '
        f'| {made["psnr"]:.1f} dB | {seconds * 1000:,.0f} ms |'
    )
    if is_foreign(own_psnrs(reconstruct, result)):
        known = known_images(reconstruct) or 'images of another kind'
        numbers += (
            f'\n\n**Little of it comes back.** This model has learnt from {known}.'
        )
    return outlined, coloured, back, numbers


def _tokenizer_tab(
    gr: Any, reconstruct: ReconstructionInferencer, examples: Sequence[np.ndarray]
) -> tuple[Any, list, list]:
    """Lay the first tab out; what shows it, from which inputs, in which outputs."""
    from mergevq_mm.models.utils.merge_schedule import least_keep

    backbone = reconstruct.parts.backbone
    length = backbone.grid[0] * backbone.grid[1]
    least = least_keep(length, backbone.num_layers)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = image_choice(gr, examples)
        with gr.Column(scale=3):
            keep = gr.Slider(
                least,
                length,
                value=reconstruct.read_keep(None, backbone.grid),
                step=1,
                label='K, the tokens that are left',
                info=f'from {length}, no merging, down to {least}',
                elem_id='keep',
            )
            with gr.Row():
                shown = []
                names = ('Which parts share a token', 'Groups', 'Reconstruction')
                for number, name in enumerate(names):
                    with gr.Column(min_width=200):  # on a phone one a row
                        gr.Markdown(name, elem_classes='heading')
                        shown.append(picture(gr, name, f'shown{number}'))
            numbers = gr.Markdown('Upload an image to begin.', elem_id='numbers')

    def view(payload: Any, tokens: Any) -> tuple:
        try:
            pixels = read_upload(payload, reconstruct.preparation.background)
            if pixels is None:
                return None, None, None, 'Upload an image to begin.'
            return view_tokens(reconstruct, pixels, whole('K', tokens, least, length))
        except ForeignFileError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except ValueError as error:  # and no pictures of another image or K beside it
            return None, None, None, str(error)

    wiring = {
        'fn': view,
        'inputs': [image, keep],
        'outputs': [*shown, numbers],
        'trigger_mode': 'always_last',
        **words_of(gr).silent,
    }
    image.change(**wiring)
    keep.change(**wiring)
    return view, [image, keep], [*shown, numbers]
