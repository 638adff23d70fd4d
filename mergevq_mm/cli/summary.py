"""What commands say of many images: their means, a table, a contact sheet."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LISTED = 10  # images up to which each has its lines
SHOWN = 24  # rows of the contact sheet at most
COLUMNS = (
    'name', 'source', 'width', 'height', 'K', 'psnr', 'code_bits', 'map_bits', 'bpp',
)  # fmt: skip


class ReconstructionSummary:
    """Collects the numbers of results, and the pictures of a few of them.

    Attributes:
        images (int): Results so far.
        files (int): Files that were written for them.
    """

    def __init__(self) -> None:
        self.images = self.files = 0
        self._table: list[tuple[Any, ...]] = []
        self._shown: list[Any] = []
        # By what was asked for: a share is another K for each size.
        self._by_request: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, result: dict[str, Any], number: int) -> list[str]:
        """Note a result.

        Args:
            result (dict): Of a ``ReconstructionInferencer``, written.
            number (int): How many there will be at most.

        Returns:
            list[str]: A line for each K, where there are few images.
        """
        from mergevq_mm.visualization import SheetRow

        made = result['reconstructions']
        height, width = result['original'].shape[:2]
        # Spread over the folder, which is often sorted by class.
        spread = np.linspace(0, number - 1, min(SHOWN, number)).round()
        if self.images in spread:
            shown = {keep: (one['image'], one['psnr']) for keep, one in made.items()}
            self._shown.append(SheetRow(result['name'], result['original'], shown))
        lines = []
        for keep, one in made.items():
            numbers = {name: one[name] for name in COLUMNS[5:]}
            for request in one['asked']:
                self._by_request[request].append({'K': keep, **numbers})
            self._table.append(
                (result['name'], result['source'], width, height, keep)
                + tuple(numbers.values())
            )
            lines.append(
                f'{result["name"]}: {width}x{height}, K = {keep}, '
                f'PSNR {one["psnr"]:.2f} dB, {one["code_bits"]} + '
                f'{one["map_bits"]} bits, {one["bpp"]:.4f} a pixel'
            )
        self.images, self.files = self.images + 1, self.files + len(result['files'])
        return lines if number <= LISTED else []

    def means(self) -> list[str]:
        """A line for each K that was asked for; one for requests that came to the same.

        Returns:
            list[str]: With the means over the images.
        """
        lines = []
        for rows in self._by_request.values():
            keeps = [row['K'] for row in rows]
            mean = {name: np.mean([row[name] for row in rows]) for name in COLUMNS[5:]}
            named = f'{min(keeps)}'
            if min(keeps) != max(keeps):
                named += f'..{max(keeps)} ({np.mean(keeps):.1f} on average)'
            lines.append(
                f'mean of {len(rows)}: K = {named}, PSNR {mean["psnr"]:.2f} dB, '
                f'{mean["code_bits"]:.0f} + {mean["map_bits"]:.0f} bits, '
                f'{mean["bpp"]:.4f} a pixel'
            )
        return list(dict.fromkeys(lines))

    def write(self, folder: Path, task: str, inputs: Collection[str]) -> None:
        """Write the table and the contact sheet.

        Args:
            folder (Path): Where to.
            task (str): Name of the command.
            inputs (Collection[str]): Real paths that are not to be replaced.

        Raises:
            ValueError: If a file of somebody else is in the way.
        """
        from mergevq_mm.apis.outputs import write_outputs
        from mergevq_mm.visualization import contact_sheet

        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerows([COLUMNS, *self._table])
        made: dict[str, np.ndarray | bytes] = {
            'contact_sheet.png': contact_sheet(self._shown),
            'summary.csv': text.getvalue().encode(),
        }
        self.files += len(write_outputs(folder, made, task, inputs))


def sampling_words(keep: int, stats: Sequence[Mapping[str, float]]) -> str:
    """What drawing took.

    Args:
        keep (int): K that was asked for.
        stats (Sequence[Mapping]): Numbers of each image, of a ``GenerationInferencer``.

    Returns:
        str: A line, with the means over the images.
    """

    def mean(name: str) -> float:
        return float(np.mean([one[name] for one in stats]))

    return (
        f'an image on average: {mean("distinct"):.1f} distinct codes (K = {keep}), '
        f'{mean("passes"):.0f} passes of the network, {mean("occupied"):.1f} of '
        f'{mean("cache_slots"):.0f} slots of the cache, '
        f'{mean("cache_bytes") / 1024:.0f} KiB'
    )
