"""The page: an image with fewer and fewer tokens, and a raster that fills up."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergevq_mm.apis import GenerationInferencer, ReconstructionInferencer
from mergevq_mm.apis.base_inferencer import least_keep
from mergevq_mm.apis.image_inputs import list_inputs, read_pixels

from .generator import generator_tab
from .offline import middleware
from .parts import SILENT, picture
from .streaming import check_raster

if TYPE_CHECKING:
    import gradio

CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
footer {display: none !important}
#numbers table {width: 100%; margin: 0}
#numbers table, #numbers tr, #numbers thead {border: 0 !important}
#numbers th, #numbers td {border: 0; border-bottom: 1px solid #e2e8f0; text-align: left}
#image img {width: 100%; height: 100%; object-fit: contain}
#examples .grid-container {grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 6px}
#examples .grid-container {grid-template-rows: none; grid-auto-rows: min-content}
#examples .grid-container button {height: auto; aspect-ratio: 1}
.shown .icon-button-wrapper {display: none}
.heading p {font-weight: 600; margin: 0}
"""
INTRODUCTION = """\
# MergeVQ
An image becomes a few tokens, each with a code of {bits} bits. Here you see which parts
of it share a token, and what comes back.
"""


def build_page(
    reconstruct: ReconstructionInferencer,
    generate: GenerationInferencer | None = None,
    examples: Sequence[np.ndarray] = (),
) -> gradio.Blocks:
    """Build the page.

    Args:
        reconstruct (ReconstructionInferencer): The tokenizer.
        generate (GenerationInferencer, optional): A MergeAR, for the second tab.
            Defaults to None.
        examples (Sequence[np.ndarray]): Images to pick from, H×W×3 uint8.

    Returns:
        gradio.Blocks: Ready to launch.

    Raises:
        ValueError: If gradio is missing, or the generator fills no raster.
    """
    gr = _gradio()
    if generate is not None:
        check_raster(generate.model)
    # Fonts of the system: others would be fetched from the network.
    theme = gr.themes.Soft(
        primary_hue='indigo',
        neutral_hue='slate',
        font=[gr.themes.Font('system-ui'), gr.themes.Font('sans-serif')],
        font_mono=[gr.themes.Font('ui-monospace'), gr.themes.Font('monospace')],
    )
    with gr.Blocks(
        theme=theme, css=CSS, title='MergeVQ', analytics_enabled=False
    ) as page:
        bits = reconstruct.parts.quantizer.bits
        gr.Markdown(INTRODUCTION.format(bits=bits))
        with gr.Tab('Merge and reconstruct'):
            view, inputs, outputs = _tokenizer_tab(gr, reconstruct, examples)
        if generate is not None:
            with gr.Tab('Generate'):
                generator_tab(gr, generate)
        page.load(view, inputs, outputs, **SILENT)
    return page


def serve(
    tokenizer: Mapping[str, Any],
    generator: Mapping[str, Any] | None = None,
    examples: Sequence[Path] = (),
    host: str = '127.0.0.1',
    port: int = 7860,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        tokenizer (Mapping): Arguments of :class:`ReconstructionInferencer`.
        generator (Mapping, optional): Of :class:`GenerationInferencer`.
        examples (Sequence[Path]): Images and folders to pick from.
        host (str): Address to listen on. Defaults to '127.0.0.1', this machine alone.
        port (int): Defaults to 7860.

    Raises:
        ValueError: If gradio is missing, the port is taken, or a model does not fit.
    """
    _gradio()  # an early error
    pictures = []
    if examples:
        pictures = [read_pixels(item) for _, item in list_inputs(list(examples))[:24]]
    reconstruct = ReconstructionInferencer(**tokenizer, show_progress=False)
    generate = None
    if generator is not None:
        generate = GenerationInferencer(**generator, show_progress=False)
    page = build_page(reconstruct, generate, pictures)
    launch(page, host, port)
    print(f'http://{host}:{port} (end with Ctrl-C)', flush=True)
    page.block_thread()


def launch(page: gradio.Blocks, host: str, port: int) -> None:
    """Start to serve a page, in the background.

    Args:
        page (gradio.Blocks): Of :func:`build_page`.
        host (str): Address to listen on.
        port (int): Its port.

    Raises:
        ValueError: If the port is taken.
    """
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            show_api=False,
            show_error=True,
            prevent_thread_lock=True,
            quiet=True,
            app_kwargs={'middleware': middleware()},
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
    return outlined, coloured, back, numbers


def _tokenizer_tab(
    gr: Any, reconstruct: ReconstructionInferencer, examples: Sequence[np.ndarray]
) -> tuple[Any, list, list]:
    """Lay the first tab out; what shows it, from which inputs, in which outputs."""
    backbone = reconstruct.parts.backbone
    length = backbone.grid[0] * backbone.grid[1]
    least = least_keep(length, backbone.num_layers)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = _image_choice(gr, examples)
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
                    with gr.Column(min_width=160):
                        gr.Markdown(name, elem_classes='heading')
                        shown.append(picture(gr, name, f'shown{number}'))
            numbers = gr.Markdown('Upload an image to begin.', elem_id='numbers')

    def view(pixels: np.ndarray | None, tokens: int) -> tuple:
        if pixels is None:
            return None, None, None, 'Upload an image to begin.'
        try:
            return view_tokens(reconstruct, pixels, int(tokens))
        except ValueError as error:
            raise gr.Error(str(error)) from error

    wiring = {
        'fn': view,
        'inputs': [image, keep],
        'outputs': [*shown, numbers],
        'trigger_mode': 'always_last',
        **SILENT,
    }
    image.change(**wiring)
    keep.change(**wiring)
    return view, [image, keep], [*shown, numbers]


def _image_choice(gr: Any, examples: Sequence[np.ndarray]) -> Any:
    """A place to put an image, above images to pick from."""
    gr.Markdown('Your image', elem_classes='heading')
    image = gr.Image(
        examples[0] if len(examples) else None,
        label='Your image',
        show_label=False,
        type='numpy',
        height=260,
        show_fullscreen_button=False,
        elem_id='image',
    )
    if not len(examples):
        return image
    gr.Markdown('Or pick one', elem_classes='heading')
    gallery = gr.Gallery(
        list(examples),
        label='Or pick one',
        show_label=False,
        columns=5,
        height=150,
        allow_preview=False,
        object_fit='cover',
        elem_id='examples',
    )

    def pick(event: gr.SelectData) -> np.ndarray:
        return examples[event.index]

    # Gradio looks at real annotations, not at their text.
    pick.__annotations__['event'] = gr.SelectData
    gallery.select(pick, None, image, **SILENT)
    return image


def _gradio() -> Any:
    """The package gradio, told to stay off the network."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            f'The page needs the package gradio ({error}): pip install mergevq_mm[web].'
        ) from error
    return gradio
