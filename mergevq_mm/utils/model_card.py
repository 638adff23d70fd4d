"""The README.md of a published model, as the Hugging Face hub shows it.

It tells what is known: what the one who publishes says, what the weights show, and what
was measured when pictures were made. Nothing is filled in.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .carried import CODE, is_tokenizer, transformers_entries
from .data_config import read_data

PREVIEW = 'preview.png'
# Of what is told, what has a place of its own in the card.
LICENSE, METRICS, REPOSITORY_KEY = 'license', 'metrics', 'repository'
_OWN_PLACE = ('parts', 'parameters', 'type', LICENSE, METRICS, REPOSITORY_KEY)


def check_told(metadata: Mapping[str, Any]) -> None:
    """Refuse what the card cannot say.

    Args:
        metadata (Mapping): What somebody tells of a model: ``license``, an identifier
            of the hub such as 'apache-2.0'; ``metrics``, names and numbers, in groups
            or not; anything else.

    Raises:
        ValueError: If the license is no text of one line, or a metric no number.
    """
    license = metadata.get(LICENSE)
    if license is not None and not (isinstance(license, str) and license.isprintable()):
        raise ValueError(
            f'metadata[{LICENSE!r}]={license!r} is no text of one line; give an '
            "identifier of the hub, such as 'apache-2.0'."
        )
    metrics = metadata.get(METRICS)
    if metrics is not None and not isinstance(metrics, Mapping):
        raise ValueError(
            f'metadata[{METRICS!r}] is a {type(metrics).__name__}; give a dict of '
            "names and numbers, such as {'psnr': 23.1}."
        )
    for name, value in _flat(metrics or {}):
        if not _is_number(value):
            raise ValueError(
                f'metadata[{METRICS!r}] has {value!r} at {name}, which is no number; '
                'leave it out.'
            )


def read_metrics(path: str | os.PathLike[str]) -> dict[str, float]:
    """The numbers of a file, for ``metadata['metrics']``.

    Args:
        path (str | PathLike): JSON or YAML, such as the ``summary.json`` of a
            quickstart. What is no number is passed over.

    Returns:
        dict[str, float]: Names with dots, from the outermost group.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or has no number.
    """
    found = {name: n for name, n in _flat(read_data(path)) if _is_number(n)}
    if not found:
        raise ValueError(f'"{path}" has no number; give a file of names and numbers.')
    return found


def model_card(
    model: Mapping[str, Any],
    metadata: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Text of the card.

    Args:
        model (Mapping): Published config.
        metadata (Mapping): What is told of it, see :func:`check_told`; and the numbers
            of parameters, in all and by part.
        measured (Sequence[Mapping]): What :mod:`mergevq_mm.apis.preview` has measured.
            Defaults to nothing.

    Returns:
        str: Markdown, with what the hub reads in front.
    """
    kind = model['type'].rpartition('.')[2]
    name = metadata.get(REPOSITORY_KEY) or 'FOLDER_OR_REPOSITORY'
    sections = [
        _front_matter(model, kind, metadata),
        f'# {kind}\n\nWeights of [MergeVQ](https://arxiv.org/abs/2504.00999) (CVPR '
        '2025) for `mergevq_mm`.\n\n',
        _measured(measured),
        _table(('measured', 'value'), _numbers(metadata.get(METRICS) or {})),
        _usage(model, name),
        '## What it is\n\n',
        _table(
            ('part', 'parameters'),
            [*metadata['parts'].items(), ('all', metadata['parameters'])],
        ),
        _notes(model, metadata),
        _licence(model, metadata),
    ]
    return ''.join(sections)


def _front_matter(
    model: Mapping[str, Any], kind: str, metadata: Mapping[str, Any]
) -> str:
    """What the hub reads: YAML, of which JSON is a part."""
    tokenizer = is_tokenizer(model)
    lines = [f'library_name: {"transformers" if tokenizer else "mergevq_mm"}\n']
    if metadata.get(LICENSE):
        lines.append(f'license: {json.dumps(metadata[LICENSE])}\n')
    if tokenizer:
        lines.append('pipeline_tag: image-feature-extraction\n')
    elif 'tokenizer' in model:
        # The nearest that the hub has for classes.
        lines.append('pipeline_tag: unconditional-image-generation\n')
    tags = ['mergevq', kind.lower()]
    tags += ['image-tokenizer', 'custom_code'] if tokenizer else []
    lines += ['tags:\n', *(f'- {tag}\n' for tag in dict.fromkeys(tags))]
    return f'---\n{"".join(lines)}---\n\n'


def _measured(rows: Sequence[Mapping[str, Any]]) -> str:
    """The picture and what was measured on it."""
    if not rows:
        return ''
    cells = [
        (
            row['image'],
            row['keep'],
            f'{row["psnr"]:.2f} dB',
            f'{row["bits_per_pixel"]:.4f}',
        )
        for row in rows
    ]
    return (
        f'![Pictures, and what comes back of them]({PREVIEW})\n\n'
        'Measured on these pictures when this folder was written:\n\n'
    ) + _table(('picture', 'K', 'PSNR', 'bits a pixel, with the map'), cells)


def _usage(model: Mapping[str, Any], name: str) -> str:
    """How to load it."""
    ours = (
        '## How to load it\n\n```python\n'
        'import mergevq_mm  # pip install mergevq_mm\n\n'
        f"model = mergevq_mm.from_pretrained('{name}')\n```\n\n"
    )
    if not transformers_entries(model):
        return ours
    more = '' if is_tokenizer(model) else ", subfolder='tokenizer'"
    whose = 'it' if is_tokenizer(model) else 'its tokenizer'
    arguments = f"'{name}'{more}, trust_remote_code=True"
    line = "pixels = prepare('PHOTO.jpg', return_tensors='pt').pixel_values"
    return (
        f'{ours}transformers 5 loads {whose}, with `mergevq_mm` or without. '
        f'`trust_remote_code` lets it run the code in this folder: `{CODE[0]}`, and, '
        f'where `mergevq_mm` is not installed, the files of it in `{CODE[1]}`, which '
        'need torch, timm, einops, safetensors and Pillow.\n\n```python\n'
        'from transformers import AutoImageProcessor, AutoModel\n\n'
        f'model = AutoModel.from_pretrained({arguments})\n'
        f'prepare = AutoImageProcessor.from_pretrained({arguments})\n'
        f'{line}  # Bx3xHxW in [-1, 1]\n'
        'merged, codes = model.encode(pixels)  # keep=K for K tokens\n'
        'images = prepare.postprocess(model.decode(merged, codes)[0])\n```\n\n'
        'Where `mergevq_mm` is installed, `import mergevq_mm.huggingface` before these '
        'lines makes `trust_remote_code` needless: no code of this folder is run.\n\n'
    )


def _notes(model: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """What else is told, a line each."""
    notes = [
        f'* {name}: {value}\n'
        for name, value in metadata.items()
        if name not in _OWN_PLACE
    ]
    if 'tokenizer' in model:
        notes.append('* the tokenizer lies in `tokenizer/`\n')
    return ''.join([*notes, '\n'])


def _licence(model: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Of the weights, where it is told, and of the code."""
    told = metadata.get(LICENSE) or 'not stated here'
    code = ' and the code in this folder are' if transformers_entries(model) else ' is'
    return f'Licence of the weights: {told}. `mergevq_mm`{code} Apache-2.0.\n'


def _table(head: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    """A table of Markdown; nothing without rows."""
    if not rows:
        return ''
    lines = [head, ('---',) * len(head), *rows]
    return ''.join(f'| {" | ".join(map(_cell, line))} |\n' for line in lines) + '\n'


def _cell(value: Any) -> str:
    """A value in a table."""
    text = f'{value:,}' if isinstance(value, int) else str(value)
    return ' '.join(text.split()).replace('|', '\\|')


def _numbers(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metrics as rows."""
    return [(name, f'{value:.6g}') for name, value in _flat(metrics)]


def _is_number(value: Any) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _flat(values: Mapping[str, Any], above: str = '') -> Iterator[tuple[str, Any]]:
    """What a nested dict holds, by names with dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{above}{name}.')
        else:
            yield f'{above}{name}', value
