"""All that a GPU is to show, in a few minutes of it: one Markdown and one JSON file.

Each row is printed and stored as soon as it is measured, and each section has a limit
of its time; what a section leaves of it goes to the later ones. So a run that is cut
off, and a section that takes too long, cost what they have not measured yet, and a row
that fails costs itself. What takes long to make, such as compiled networks, comes last.
Nothing is needed but the package: weights, images and codes are random.

Examples:
    python tools/benchmarks/gpu_report.py --minutes 8
    python tools/benchmarks/gpu_report.py --sections decoding --json decoding.json
    python tools/benchmarks/gpu_report.py --small --device cpu
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gpu_decoding
import gpu_networks
import gpu_training
import torch
from common import add_arguments, hardware, run_main, start
from gpu_setting import Setting, TimeUp, time_limit
from reporting import Report, sentence, why, write_json, write_text

import mergevq_mm

# What each section may take of the time, relative to the others.
SECTIONS: dict[str, tuple[Callable[..., None], float]] = {
    'card': (gpu_networks.card, 10),
    'entropy': (gpu_networks.entropy, 15),
    'attention': (gpu_networks.attention, 15),
    'decoding': (gpu_decoding.decoding, 180),
    'merging': (gpu_networks.merging, 10),
    'encoder': (gpu_networks.encoder, 100),
    'step': (gpu_training.step, 70),
    'training': (gpu_training.real, 90),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--minutes', type=float, default=8.0, help='of all sections (default: 8)'
    )
    parser.add_argument(
        '--sections',
        nargs='+',
        choices=list(SECTIONS),
        default=list(SECTIONS),
        help='default: all',
    )
    parser.add_argument(
        '--small',
        action='store_true',
        help='tiny sizes, with which all of it runs on a CPU in a minute or two',
    )
    add_arguments(parser, repeats=5)
    parser.set_defaults(json=Path('work_dirs/gpu_report.json'))
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        raise ValueError(f'--minutes {args.minutes} is no time; give more than 0.')
    return args


class Document:
    """Both files, written anew whenever a section has something to tell.

    Args:
        args (Namespace): Parsed flags; ``args.json`` names the one file, and the other
            stands beside it.
        device (torch.device): Device measured on.
    """

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.args, self.device = args, device
        self.text = args.json.with_suffix('.md')
        self.machine = {**hardware(device), **versions()}
        self.sections: list[Section] = []

    def section(self, title: str, columns: dict[str, str]) -> Report:
        """A table of its own; see :class:`Report`."""
        self.sections.append(Section(self, title, columns))
        return self.sections[-1]

    def store(self) -> None:
        """Write both files."""
        content = [
            {**s.content(), 'columns': s.columns, 'ended': s.ended}
            for s in self.sections
        ]
        write_json(self.args.json, {'hardware': self.machine, 'sections': content})
        write_text(self.text, self.markdown())

    def markdown(self) -> str:
        """The text of the Markdown file."""
        known = ', '.join(f'{name} {value}' for name, value in versions().items())
        lines = ['# What a GPU measured', '', f'{sentence(self.machine)}; {known}.']
        for part in self.sections:
            lines += ['', f'## {part.title}', '', *part.markdown()]
        return '\n'.join(lines) + '\n'


class Section(Report):
    """A table of a document, which stores it.

    Args:
        document (Document): Where it stands.
        title (str): Heading.
        columns (dict[str, str]): See :class:`Report`.
    """

    def __init__(self, document: Document, title: str, columns: dict[str, str]) -> None:
        super().__init__(title, columns, document.args, document.device)
        self.document, self.ended = document, 'cut off'

    def store(self, complete: bool = False, **more: Any) -> None:
        """See :meth:`Report.store`."""
        self.document.store()

    def end(self, how: str) -> None:
        """Say how it has ended, below the table."""
        if self.failed:
            how = f'{self.failed} of {len(self.rows)} rows failed; {how}'
        self.ended = how
        for text in (*self.notes, f'ended: {how}'):
            print(text, flush=True)
        self.store()

    def markdown(self) -> list[str]:
        """Its lines."""
        rows = [list(self.columns.values()), ['---'] * len(self.columns)]
        rows += [self.cells(row) for row in self.rows]
        lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
        return [
            *lines,
            '',
            *(f'{note}\n' for note in self.notes),
            f'Ended: {self.ended}.',
        ]


def versions() -> dict[str, str]:
    """Versions beside torch's."""
    found = {'mergevq_mm': mergevq_mm.__version__}
    if torch.version.cuda:
        found['CUDA'] = torch.version.cuda
        found['cuDNN'] = str(torch.backends.cudnn.version())
    return found


def limits(left: float, shares: Sequence[float]) -> float:
    """Seconds of the next section.

    Args:
        left (float): Seconds for all that are to come.
        shares (Sequence[float]): Of each of them, the next one first.

    Returns:
        float: At least 1.
    """
    return max(left * shares[0] / sum(shares), 1.0)


def run_section(name: str, setting: Setting, document: Document) -> None:
    """Run a section within its time; whatever ends it, the next one can follow."""
    before, begin, how = len(document.sections), time.monotonic(), 'complete'
    try:
        with time_limit(setting.seconds):
            SECTIONS[name][0](setting, document.section)
    except TimeUp:
        how = f'its time of {setting.seconds:.0f} s was up'
    except Exception as error:  # of the work: out of memory, a compiler's …
        traceback.print_exc()
        how = why(error)
    how += f' ({time.monotonic() - begin:.0f} s)'
    if len(document.sections) == before:
        document.section(name, {'nothing': 'nothing was measured'})
    for section in document.sections[before:]:
        section.end(how)
    gc.collect()
    torch._dynamo.reset()
    if setting.gpu:
        with suppress(RuntimeError):  # of a kernel that has gone wrong
            torch.cuda.empty_cache()


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    device = start(args)
    document = Document(args, device)
    setting = Setting(device, args.small, 1 if args.small else args.repeats)
    end = time.monotonic() + 60 * args.minutes
    for i, name in enumerate(args.sections):
        shares = [SECTIONS[each][1] for each in args.sections[i:]]
        setting.seconds = limits(end - time.monotonic(), shares)
        run_section(name, setting, document)
    print(f'written to {document.text} and {args.json}')
    failed = [s.title for s in document.sections if not s.ended.startswith('complete')]
    if failed:
        print(f'not complete: {"; ".join(failed)}')
    return 0


if __name__ == '__main__':
    run_main(main)
