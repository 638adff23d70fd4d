"""What both tabs of the page are made of, in the words of gradio 6 or 5."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any, NamedTuple

from .uploads import temporary_folder

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


class Words(NamedTuple):
    """Arguments that gradio 5 and 6 call otherwise.

    Attributes:
        silent (dict): Of an event: no veil over the pictures, no entry in a list of
            functions for programs, and values as the browser sends them.
        bare (dict): Of an image or a gallery: no buttons over it.
        blocks (dict): Of a page.
        launch (dict): Of the start of a page.
    """

    silent: dict[str, Any]
    bare: dict[str, Any]
    blocks: dict[str, Any]
    launch: dict[str, Any]


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
        )
    return Words(
        silent={**silent, 'api_name': False},
        bare={'show_download_button': False, 'show_fullscreen_button': False},
        blocks=looks,
        launch={'show_api': False},
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
            f'The page needs the package gradio ({error}): pip install mergevq_mm[web].'
        ) from error
    try:
        asyncio.get_event_loop()
    except RuntimeError:
        # Without a loop gradio 5 makes no locks; where one has ended, there is none.
        asyncio.set_event_loop(asyncio.new_event_loop())
    return gradio
