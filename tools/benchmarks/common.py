"""What the benchmarks share: flags, interleaved timing, peak memory.

Times are compared within one run only. The variants take turns (A B A B …), so that a
machine that slows down slows all of them, and a ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# The profiler otherwise warns about each block that was allocated before it started.
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser, repeats: int | None = None) -> None:
    """Add the flags that all benchmarks know.

    Args:
        parser (ArgumentParser): Of the benchmark.
        repeats (int, optional): Default number of turns. Defaults to None, nothing is
            timed.
    """
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help="'cpu' or 'cuda[:n]' (default: a GPU where there is one)",
    )
    if repeats is not None:
        parser.add_argument(
            '--repeats',
            type=positive,
            default=repeats,
            help=f'turns of each variant; the median counts (default: {repeats})',
        )
    parser.add_argument('--threads', type=positive, help='threads of torch on a CPU')
    parser.add_argument('--seed', type=natural, default=0)
    parser.add_argument('--json', type=Path, help='also write the numbers to this file')


def start(args: argparse.Namespace) -> torch.device:
    """Apply the common flags.

    Args:
        args (Namespace): Parsed flags.

    Returns:
        torch.device: The device to measure on.

    Raises:
        ValueError: If a GPU is asked for and there is none.
    """
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(
            f'--device {args.device} needs a CUDA device, and torch sees none; use '
            '--device cpu.'
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return device


def hardware(device: torch.device) -> dict[str, Any]:
    """Name what the numbers were taken on.

    Args:
        device (torch.device): The device measured on.

    Returns:
        dict[str, Any]: CPU, threads, GPU (or None), torch's version, load of the
        machine at the start.
    """
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    gpu = torch.cuda.get_device_name(device) if device.type == 'cuda' else None
    return {
        'cpu': _cpu_name(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load': load,
        'gpu': gpu,
        'torch': torch.__version__,
    }


def _cpu_name() -> str:
    """Model of the processor, as far as the system tells it."""
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait for the work that was given to a GPU; nothing on a CPU."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def interleaved(
    variants: dict[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Time variants in turn, so that a drift of the machine cancels.

    Args:
        variants (dict[str, Callable]): Pieces of work by name.
        repeats (int): Turns.
        device (torch.device): Where the work runs.
        warmup (int): Turns before those that count. Defaults to 1.

    Returns:
        dict[str, list[float]]: Seconds of each turn; equal positions belong together.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warmup + repeats):
        for name, work in variants.items():
            synchronize(device)
            begin = time.perf_counter()
            work()
            synchronize(device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the turns of the ratio within a turn."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that a piece of work holds at once, beyond what was there before.

    On a GPU this is ``torch.cuda.max_memory_allocated`` of a second run, as the first
    one also makes the workspaces of the libraries. On a CPU the profiler reports
    every block that torch's allocator hands out or takes back, with temporaries inside
    of operators; the highest running sum counts. Scratch memory that libraries such as
    oneDNN take from the system on their own is not seen.

    Args:
        work (Callable): The work.
        device (torch.device): Where it runs.

    Returns:
        int: Bytes.
    """
    if device.type == 'cuda':
        work()
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    live = peak = 0
    for change in allocations(profiler):
        live += change
        peak = max(peak, live)
    return peak


def allocations(profiler: profile, marker: str | None = None) -> list[int | str]:
    """Allocations (bytes) and frees (-bytes) of a CPU profile, in order.

    Args:
        profiler (profile): Finished, with ``profile_memory=True``.
        marker (str, optional): Prefix of ``record_function`` names that are to appear
            in the list at the time at which they were entered. Defaults to None.

    Returns:
        list[int | str]: Bytes, and names of markers.
    """
    found: list[tuple[int, int | str]] = []
    for event in profiler.profiler.kineto_results.events():
        name = event.name()
        if name == '[memory]':
            if event.device_type() == torch.profiler.DeviceType.CPU:
                found.append((event.start_ns(), event.nbytes()))
        elif marker is not None and name.startswith(marker):
            found.append((event.start_ns(), name))
    return [what for _, what in sorted(found, key=lambda pair: pair[0])]


def run_main(main: Callable[[], int]) -> None:
    """Run a benchmark as a program; what is wrong with its input ends in one line.

    Args:
        main (Callable): Returns the exit status.
    """
    try:
        sys.exit(main())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')


def natural(text: str) -> int:
    """A whole number of 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{value} is below 0')
    return value


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is not a whole number above 0')
    return value
