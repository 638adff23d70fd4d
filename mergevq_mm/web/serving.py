"""From models to a page that is served, as the command does it."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergevq_mm.apis import (
    EditingInferencer,
    GenerationInferencer,
    ReconstructionInferencer,
)
from mergevq_mm.apis.image_inputs import list_inputs, read_pixels

from .page import build_page, launch
from .parts import import_gradio
from .streaming import check_raster

MAX_EXAMPLES = 24
DRAWN_EXAMPLES = 10  # where none are given, and a generator can draw them …
DRAWN_SECONDS = 10.0  # … in so much time


def serve(
    tokenizer: Mapping[str, Any],
    generator: Mapping[str, Any] | None = None,
    examples: Sequence[Path] = (),
    host: str = '127.0.0.1',
    port: int = 7860,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        tokenizer (Mapping): Arguments of :class:`ReconstructionInferencer`. If its
            model is a generator, it brings a tab to edit, and one to generate if it
            fills a raster.
        generator (Mapping, optional): Of :class:`GenerationInferencer`, of another
            one.
        examples (Sequence[Path]): Images and folders to pick from. Where there are
            none, the generator draws some.
        host (str): Address to listen on. Defaults to '127.0.0.1', this machine alone.
        port (int): Defaults to 7860.

    Raises:
        ValueError: If gradio is missing, the port is taken, or a model does not fit.
    """
    import_gradio()  # an early error
    pictures = []
    if examples:
        listed = list_inputs(list(examples))[:MAX_EXAMPLES]
        pictures = [read_pixels(item) for _, item in listed]
    reconstruct = ReconstructionInferencer(**tokenizer, show_progress=False)
    drawing = None
    if generator is not None:
        drawing = GenerationInferencer(**generator, show_progress=False)
    elif hasattr(reconstruct.model, 'sample_codes'):
        drawing = GenerationInferencer(
            reconstruct.model, device=reconstruct.device, show_progress=False
        )
    generate = edit = None
    if drawing is not None:
        generate = drawing if can_be_watched(drawing) else None
        edit = EditingInferencer(
            drawing.model, device=drawing.device, show_progress=False
        )
        pictures = pictures or draw_examples(drawing)
    page = build_page(reconstruct, generate, pictures, edit)
    launch(page, host, port)
    print(f'http://{host}:{port} (end with Ctrl-C)', flush=True)
    with contextlib.suppress(ValueError):  # elsewhere than in the main thread
        # So that the folder of the page goes with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    page.block_thread()


def can_be_watched(generate: GenerationInferencer) -> bool:
    """Whether a generator fills a raster; if not, that is told.

    Args:
        generate (GenerationInferencer): Of any model.

    Returns:
        bool: Whether it gets a tab to generate.
    """
    try:
        check_raster(generate.model)
    except ValueError as error:
        print(f'Without a tab to generate: {error}')
        return False
    return True


def draw_examples(
    generate: GenerationInferencer, seconds: float = DRAWN_SECONDS
) -> list[np.ndarray]:
    """Images to pick from: one of each class, as many as there is time for.

    Args:
        generate (GenerationInferencer): Of any model.
        seconds (float): After which no other is begun. Defaults to ``DRAWN_SECONDS``.

    Returns:
        list[np.ndarray]: H×W×3 uint8, at least one.
    """
    end = time.monotonic() + seconds
    drawn = []
    classes = list(range(min(DRAWN_EXAMPLES, generate.model.num_classes)))
    for result in generate.stream(classes, batch_size=1):
        drawn.append(result['image'])
        if time.monotonic() > end:
            break
    return drawn
