"""Rows of a benchmark: printed and stored as soon as each of them is measured.

Whatever ends a benchmark early, its time, its memory or its reader, leaves on the
terminal and in the file what was measured until then.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import hardware

FIRST, TEXT, NUMBER = 24, 12, 8  # least widths of columns


class Report:
    """Rows of one benchmark: a table on the terminal, and a file.

    Args:
        title (str): Heading.
        columns (dict[str, str]): Heading of each column by the key of its values. A
            number is printed by the format that follows ``|`` in the heading, such as
            ``'time (ms)|.1f'``.
        args (Namespace): Parsed flags; ``args.json`` names the file, or is None.
        device (torch.device): Device measured on.
    """

    def __init__(
        self,
        title: str,
        columns: dict[str, str],
        args: argparse.Namespace,
        device: torch.device,
    ) -> None:
        self.title, self.args = title, args
        self.columns = {key: head.split('|')[0] for key, head in columns.items()}
        self.formats = {key: head.partition('|')[2] for key, head in columns.items()}
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.failed = 0  # rows
        self.hardware = hardware(device)  # with the load before the work

    def add(self, **values: Any) -> None:
        """Print and store a row; a key without a column goes into the file alone."""
        if not self.rows:
            self._print_head()
        self.rows.append(values)
        print(self._line(self.cells(values)), flush=True)
        self.store()

    def attempt(self, measure: Callable[[], dict[str, Any]], **known: Any) -> None:
        """Add a row; where it cannot be measured, what is known, and why in a note.

        Args:
            measure (Callable): Returns the values of the row.
            **known: Those that are known before.
        """
        try:
            found = measure()
        except Exception as error:  # of the work: out of memory, a compiler's …
            traceback.print_exc()
            found = {'error': why(error)}
            self.note(f'{", ".join(map(str, known.values()))}: {found["error"]}')
            self.failed += 1
        if 'error' in found:
            gc.collect()  # what the error has kept
        self.add(**known, **found)

    def note(self, text: str) -> None:
        """Add a line below the table."""
        self.notes.append(text)

    def show(self, **more: Any) -> None:
        """Print the notes below the table and complete the file.

        Args:
            **more: Further entries of the file.
        """
        for text in (*self.notes, sentence(self.hardware)):
            print(text)
        self.store(complete=True, **more)
        if self.args.json is not None:
            print(f'written to {self.args.json}', flush=True)

    def store(self, complete: bool = False, **more: Any) -> None:
        """Write what there is to ``args.json``, if that is given.

        Args:
            complete (bool): Whether that is all. Defaults to False.
            **more: Further entries.
        """
        if self.args.json is not None:
            write_json(self.args.json, {**self.content(), 'complete': complete, **more})

    def content(self) -> dict[str, Any]:
        """What stands in the file."""
        return {
            'title': self.title,
            'hardware': self.hardware,
            'arguments': {k: _plain(v) for k, v in vars(self.args).items()},
            'rows': self.rows,
            'notes': self.notes,
        }

    def cells(self, row: dict[str, Any]) -> list[str]:
        """The texts of a row's columns."""
        return [self._cell(key, row.get(key)) for key in self.columns]

    def _cell(self, key: str, value: Any) -> str:
        if value is None:
            return '–'
        return (
            str(value) if isinstance(value, str) else format(value, self.formats[key])
        )

    def _widths(self) -> list[int]:
        """Of the columns: their longest word, or what their kind mostly needs."""
        least = [NUMBER if form else TEXT for form in self.formats.values()]
        least[0] = FIRST
        words = (max(map(len, head.split())) for head in self.columns.values())
        return [max(pair) for pair in zip(words, least, strict=True)]

    def _line(self, cells: list[str]) -> str:
        """Texts below their headings, numbers to the right."""
        padded = [
            cell.rjust(width) if form else cell.ljust(width)
            for cell, width, form in zip(
                cells, self._widths(), self.formats.values(), strict=True
            )
        ]
        return '  '.join(padded).rstrip()

    def _print_head(self) -> None:
        heads = [
            textwrap.wrap(head, width)
            for head, width in zip(self.columns.values(), self._widths(), strict=True)
        ]
        lines = max(map(len, heads))
        print(f'\n{self.title}')
        for number in range(lines):
            print(
                self._line([([''] * lines + head)[-lines:][number] for head in heads])
            )
        print('-' * (sum(self._widths()) + 2 * len(heads) - 2))


def why(error: Exception) -> str:
    """What has gone wrong, on one line."""
    return f'{type(error).__name__}: {str(error).partition(chr(10))[0]}'


def write_json(path: Path, content: Any) -> None:
    """Replace a file by another content, as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + '\n')


def write_text(path: Path, text: str) -> None:
    """Replace a file by another text, as a whole."""
    part = path.with_name(path.name + '.part')
    part.write_text(text, encoding='utf-8')
    os.replace(part, path)


def sentence(machine: dict[str, Any]) -> str:
    """The hardware on one line."""
    where = machine['gpu'] or f'{machine["cpu"]}, {machine["cores"]} cores'
    load = machine['load']
    busy = '' if load is None else f', load {load:.1f}'
    return f'{where}, {machine["threads"]} threads, torch {machine["torch"]}{busy}'


def _plain(value: Any) -> Any:
    """A flag as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
