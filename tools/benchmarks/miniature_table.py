"""Tables of the miniature: means, spreads, and whether the paper's orderings hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

from miniature_setting import LONG, LONGER

Result = dict[str, Any]
Value = Callable[[Result], float | None]


def at_keep(name: str, which: int = 0) -> Value:
    """A reconstruction metric at a model's own K (0) or at its largest (-1)."""

    def value(result: Result) -> float | None:
        measured = result.get('reconstruction')
        if not measured:
            return None
        keep = str(result['keep']) if which == 0 else max(measured, key=int)
        return measured[keep].get(name)

    return value


def neighbours(result: Result) -> float | None:
    """k-NN accuracy at k = 20, or at the smallest k of a short run."""
    found = result['knn']
    return found.get('20', next(iter(found.values()), None))


def cost(name: str) -> Value:
    """An entry of the encoder's cost."""
    return lambda result: (result.get('cost') or {}).get(name)


# Heading -> value of a result, digits after the point.
COLUMNS: dict[str, tuple[Value, int]] = {
    'PSNR at K (dB)': (at_keep('psnr'), 2),
    'PSNR at L (dB)': (at_keep('psnr', -1), 2),
    'PSNR at K, predicted map (dB)': (at_keep('psnr_predicted'), 2),
    'map right (%)': (
        lambda r: None if (v := at_keep('acc')(r)) is None else 100 * v,
        1,
    ),
    'probe (%)': (lambda r: r['probe'], 1),
    'probe, sub-groups (%)': (lambda r: r.get('probe_subgroups'), 1),
    'k-NN (%)': (neighbours, 1),
    'encoder at K (MMAC)': (cost('macs'), 1),
    'encoder at L (MMAC)': (cost('macs_plain'), 1),
    'training (s)': (lambda r: r.get('seconds'), 0),
}


SECOND_PROBE = 'probe, sub-groups (%)'  # the emoji's alone


def summarise(results: Sequence[Result]) -> dict[str, dict[str, float] | None]:
    """Mean and spread of each column over the seeds of one method.

    Args:
        results (Sequence[Result]): Of the seeds.

    Returns:
        dict[str, dict | None]: Heading to ``mean``, ``std`` (of the sample, 0 for a
        single seed) and ``values``; None where the method has no such number.
    """
    row: dict[str, dict[str, Any] | None] = {}
    for heading, (value, _) in COLUMNS.items():
        values = [value(result) for result in results]
        known = [v for v in values if v is not None]
        row[heading] = None
        if known and len(known) == len(values):
            spread = stdev(known) if len(known) > 1 else 0.0
            row[heading] = {'mean': mean(known), 'std': spread, 'values': known}
    return row


def markdown(title: str, rows: dict[str, dict], seeds: int) -> str:
    """One table.

    Args:
        title (str): Heading.
        rows (dict[str, dict]): Method to what :func:`summarise` returns.
        seeds (int): How many seeds each mean has.

    Returns:
        str: Markdown.
    """
    second = any(row[SECOND_PROBE] for row in rows.values())
    columns = [heading for heading in COLUMNS if second or heading != SECOND_PROBE]
    lines = [
        f'### {title}',
        '',
        f'Mean ± standard deviation over {seeds} seed{"s" * (seeds > 1)}.',
        '',
        f'| method | {" | ".join(columns)} |',
        '| --- ' * (1 + len(columns)) + '|',
    ]
    for method, row in rows.items():
        cells = [_cell(row[heading], COLUMNS[heading][1]) for heading in columns]
        lines.append(f'| {method} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _cell(found: dict[str, Any] | None, digits: int) -> str:
    if found is None:
        return '–'
    text = f'{found["mean"]:.{digits}f}'
    if len(found['values']) > 1:
        text += f' ± {found["std"]:.{digits}f}'
    return text


# ----------------------------------------------------------------------- orderings

# Statement -> heading and methods, the largest first.
CHAINS = {
    'probe: R > G+R > G': ('probe (%)', ('R', 'G+R', 'G')),
    'reconstruction: G > G+R > R': ('PSNR at K (dB)', ('G', 'G+R', 'R')),
    'fewer tokens, better probe': (
        'probe (%)',
        ('G+R, K=9', 'G+R, K=16', 'G+R, K=64'),
    ),
    'fewer tokens, worse reconstruction': (
        'PSNR at K (dB)',
        ('G+R, K=64', 'G+R, K=16', 'G+R, K=9'),
    ),
    'G+R probes better than the random encoder': ('probe (%)', ('G+R', 'random')),
    'G+R probes better than pixels': ('probe (%)', ('G+R', 'pixels')),
    'G+R probes better than the plain VQ tokenizer': ('probe (%)', ('G+R', 'VQ')),
    'G+R probes better than MAE': ('probe (%)', ('G+R', 'MAE')),
    'R probes better than MAE': ('probe (%)', ('R', 'MAE')),
    'R probes better than its random encoder': ('probe (%)', ('R', 'R, random')),
    'MAE probes better than its random encoder': ('probe (%)', ('MAE', 'MAE, random')),
}
# The same with more steps, and of the second probe.
CHAINS |= {
    f'{statement}, {LONGER}x': (heading, tuple(f'{m}, {LONGER}x' for m in methods))
    for statement, (heading, methods) in CHAINS.items()
    if all(f'{m}, {LONGER}x' in LONG for m in methods)
}
CHAINS |= {
    f'sub-groups, {statement}': (SECOND_PROBE, methods)
    for statement, (heading, methods) in CHAINS.items()
    if heading == 'probe (%)'
}


def orderings(rows: dict[str, dict]) -> list[dict[str, Any]]:
    """How often the orderings that the paper reports came out.

    Args:
        rows (dict[str, dict]): Method to what :func:`summarise` returns.

    Returns:
        list[dict]: ``statement``, ``seeds`` in which it holds, ``of``, ``means``
        (whether it holds for them), for the statements whose methods were all run.
    """
    found = []
    for statement, (heading, methods) in CHAINS.items():
        columns = [rows.get(method, {}).get(heading) for method in methods]
        if all(columns):
            series = [column['values'] for column in columns]
            found.append(_ordering(statement, series, [c['mean'] for c in columns]))
    for method, row in rows.items():
        true, predicted = row['PSNR at K (dB)'], row['PSNR at K, predicted map (dB)']
        # At K = L nothing is merged, and the two maps are one.
        if true and predicted and true['values'] != predicted['values']:
            statement = f'{method}: the true map reconstructs better than the predicted'
            series = [true['values'], predicted['values']]
            means = [true['mean'], predicted['mean']]
            found.append(_ordering(statement, series, means))
    return found


def _ordering(
    statement: str, series: Sequence[Sequence[float]], means: Sequence[float]
) -> dict[str, Any]:
    def falls(values: Sequence[float]) -> bool:
        return all(a > b for a, b in zip(values, values[1:]))

    by_seed = [falls(values) for values in zip(*series, strict=True)]
    return {
        'statement': statement,
        'seeds': sum(by_seed),
        'of': len(by_seed),
        'means': falls(means),
    }


def orderings_markdown(title: str, found: Sequence[dict[str, Any]]) -> str:
    """The orderings as a table.

    Args:
        title (str): Heading.
        found (Sequence[dict]): What :func:`orderings` returns.

    Returns:
        str: Markdown.
    """
    lines = [
        f'### {title}',
        '',
        '| ordering | for the means | seeds in which it holds |',
        '| --- | --- | --- |',
    ]
    for row in found:
        answer = 'yes' if row['means'] else 'no'
        lines.append(
            f'| {row["statement"]} | {answer} | {row["seeds"]} of {row["of"]} |'
        )
    return '\n'.join(lines) + '\n'
