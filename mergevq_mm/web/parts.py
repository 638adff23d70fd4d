"""What both tabs of the page are made of, in the words of gradio 6 or 5."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .uploads import temporary_folder
from .values import whole

CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
footer {display: none !important}
#numbers table {width: 100%; margin: 0}
#numbers table, #numbers tr, #numbers thead {border: 0 !important}
#numbers th, #numbers td {border: 0; border-bottom: 1px solid #e2e8f0; text-align: left}
#numbers th, #numbers td {overflow-wrap: normal; word-break: normal}
@media (max-width: 700px) {
  #numbers table {display: flex}
  #numbers thead, #numbers tbody {flex: 1 1 auto}
  #numbers tr {display: flex; flex-direction: column}
  #numbers th, #numbers td {white-space: nowrap; padding: 4px 6px}
}
.chosen img {width: 100%; height: 100%; object-fit: contain}
.examples .grid-container {grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 6px}
.examples .grid-container {grid-template-rows: none; grid-auto-rows: min-content}
.examples .grid-container button {height: auto; aspect-ratio: 1}
.shown .icon-button-wrapper {display: none}
.heading p {font-weight: 600; margin: 0}
"""


class Words(NamedTuple):
    """Arguments that gradio 5 and 6 call otherwise.

    Attributes:
        silent (dict): Of an event: no veil over the pictures, no entry in a list of
            functions for programs, and values as the browser sends them.
        bare (dict): Of an image or a gallery: no buttons over it.
        blocks (dict): Of a page.
        launch (dict): Of the start of a page.
        paints (bool): Whether a picture that we put into its editor can be painted on;
            in gradio 5 it cannot (gradio-app/gradio#10614).
    """

    silent: dict[str, Any]
    bare: dict[str, Any]
    blocks: dict[str, Any]
    launch: dict[str, Any]
    paints: bool


@functools.cache
def words_of(gr: Any) -> Words:
    """The arguments of the installed gradio.

    Args:
        gr (Any): The package gradio.

    Returns:
        Words: Of version 6, or of 5.
    """
    # Fonts of the system: others would be fetched from the network.
    theme = gr.themes.Soft(
        primary_hue='indigo',
        neutral_hue='slate',
        font=[gr.themes.Font('system-ui'), gr.themes.Font('sans-serif')],
        font_mono=[gr.themes.Font('ui-monospace'), gr.themes.Font('monospace')],
    )
    silent = {'show_progress': 'hidden', 'preprocess': False}
    looks = {'theme': theme, 'css': CSS}
    if int(gr.__version__.split('.')[0]) >= 6:
        return Words(
            silent={**silent, 'api_visibility': 'private'},
            bare={'buttons': []},
            blocks={},
            launch={**looks, 'footer_links': []},
            paints=True,
        )
    return Words(
        silent={**silent, 'api_name': False},
        bare={'show_download_button': False, 'show_fullscreen_button': False},
        blocks=looks,
        launch={'show_api': False},
        paints=False,
    )


def picture(gr: Any, label: str, name: str) -> Any:
    """A picture to look at; its label, which would lie over it, is for readers."""
    return gr.Image(
        label=label,
        show_label=False,
        format='png',
        interactive=False,
        elem_id=name,
        elem_classes='shown',
        **words_of(gr).bare,
    )


def image_choice(gr: Any, examples: Sequence[np.ndarray], prefix: str = '') -> Any:
    """A place to put an image, above images to pick from.

    Args:
        gr (Any): The package gradio.
        examples (Sequence[np.ndarray]): Images to pick from, H×W×3 uint8.
        prefix (str): Of the names of its elements. Defaults to ''.

    Returns:
        Any: The image.
    """
    gr.Markdown('Your image', elem_classes='heading')
    image = gr.Image(
        examples[0] if len(examples) else None,
        label='Your image',
        show_label=False,
        format='png',  # an example is to arrive as it is
        height=260,
        elem_id=f'{prefix}image',
        elem_classes='chosen',
        **words_of(gr).bare,
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
        elem_id=f'{prefix}examples',
        elem_classes='examples',
        **words_of(gr).bare,
    )

    def pick(event: gr.SelectData) -> np.ndarray:
        return examples[whole('number', event.index, 0, len(examples) - 1)]

    # Gradio looks at real annotations, not at their text.
    pick.__annotations__['event'] = gr.SelectData
    gallery.select(pick, None, image, **words_of(gr).silent)
    return image


def import_gradio() -> Any:
    """The package gradio, told to stay off the network and in a folder of its own.

    Returns:
        module: Of version 5 or 6.

    Raises:
        ValueError: If it is missing.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    temporary_folder()  # before gradio asks for it
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            f'The page needs the package gradio ({error}): pip install "gradio>=5".'
        ) from error
    try:
        asyncio.get_event_loop()
    except RuntimeError:
        # Without a loop gradio 5 makes no locks; where one has ended, there is none.
        asyncio.set_event_loop(asyncio.new_event_loop())
    return gradio
