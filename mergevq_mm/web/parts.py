"""What both tabs of the page are made of."""

from __future__ import annotations

from typing import Any

# No veil over the pictures. And no entry in a list of functions for programs, at which
# this gradio fails beside a newer pydantic.
SILENT = {'show_progress': 'hidden', 'api_name': False}


def picture(gr: Any, label: str, name: str) -> Any:
    """A picture to look at; its label, which would lie over it, is for readers."""
    return gr.Image(
        label=label,
        show_label=False,
        format='png',
        interactive=False,
        show_download_button=False,
        show_fullscreen_button=False,
        elem_id=name,
        elem_classes='shown',
    )
