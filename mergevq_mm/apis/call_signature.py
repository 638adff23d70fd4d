"""The arguments of an inferencer's call, gathered from the steps that take them."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

_STEPS = ('forward', 'preprocess', 'visualize', 'postprocess')


def with_signature(kind: type, call: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a class that takes what the steps of the class take.

    Args:
        kind (type): With ``forward_kwargs`` and so on, as mmengine's inferencers have.
        call (Callable): Of any keyword arguments, which it hands to the steps.

    Returns:
        Callable: Does the same. Its signature, and the arguments in its docstring, are
        those of the class, for ``help`` and for editors.
    """
    own = inspect.signature(call)
    parameters = {
        name: one
        for name, one in own.parameters.items()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    }
    entries = _entries(call)
    for step in _STEPS:
        function = getattr(kind, step)
        known = inspect.signature(function).parameters
        described = _entries(function)
        # Options that a step hands on by **options stand in the set alone.
        for name in [*known, *sorted(_names(kind, step) - set(known))]:
            if name in _names(kind, step):
                parameters[name] = _keyword(name, known.get(name))
                entries[name] = described.get(name, '')

    @functools.wraps(call)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **kwargs)

    del method.__wrapped__  # which inspect would follow
    vars(method).update(
        __signature__=own.replace(parameters=list(parameters.values())),
        plain=call,  # what a subclass describes anew
    )
    method.__doc__ = _with_entries(inspect.getdoc(call) or '', entries.values())
    return method


def check_arguments(kind: type, given: Collection[str]) -> None:
    """Refuse arguments that no step of a class takes.

    Args:
        kind (type): As of :func:`with_signature`.
        given (Collection[str]): Names.

    Raises:
        ValueError: If one is not known; it names those that are like it.
    """
    known = sorted(set().union(*(_names(kind, step) for step in _STEPS)))
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f'did you mean {near[0]}? Its' if near else 'its'
            raise ValueError(
                f'{kind.__name__} takes no argument {name}; {hint} arguments are '
                f'{", ".join(known)}.'
            )


def _names(kind: type, step: str) -> set[str]:
    names: set[str] = getattr(kind, f'{step}_kwargs')
    return names


def _keyword(name: str, found: inspect.Parameter | None) -> inspect.Parameter:
    """A parameter that is given by its name alone."""
    only = inspect.Parameter.KEYWORD_ONLY
    if found is None:
        return inspect.Parameter(name, only, default=None, annotation='Any')
    return found.replace(kind=only)


def _entries(function: Callable[..., Any]) -> dict[str, str]:
    """The arguments in a docstring of Google's style, by name."""
    entries: dict[str, str] = {}
    name = ''
    lines = (inspect.getdoc(function) or '').partition('\nArgs:\n')[2].splitlines()
    for line in lines:
        if line and not line.startswith(' '):  # the next section
            break
        start = re.match(r' {4}(\S+) \(', line) or re.match(r' {4}(\*\S+):', line)
        name = start[1] if start else name
        entries[name] = f'{entries[name]}\n{line}' if name in entries else line
    return {name: entry.rstrip() for name, entry in entries.items() if name[0] != '*'}


def _with_entries(text: str, entries: Collection[str]) -> str:
    """A docstring with other arguments."""
    before, _, rest = text.partition('\nArgs:\n')
    after = re.search(r'^\S', rest, re.M)
    tail = f'\n\n{rest[after.start() :]}' if after else ''
    listed = '\n'.join(entry for entry in entries if entry)
    return f'{before}\nArgs:\n{listed}{tail}'
