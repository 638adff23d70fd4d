"""Who has ended a run, from what the processes have left."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest

from mergevq_mm.utils.last_line import (
    FOLDER,
    chosen_codes,
    follow,
    last_words,
    who_ended,
)


def leave(folder: Path, rank: int, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    """What a rank does that logs two lines and ends with an error, or is killed."""
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setenv('RANK', str(rank))
    logger = logging.getLogger(f'rank-{rank}')
    logger.setLevel('INFO')
    follow(logger)
    logger.info('a longer line at the beginning')
    logger.info(f'two lines\nstep 3 of {rank}')
    if error:
        with pytest.raises(RuntimeError), last_words():
            raise RuntimeError(error)


def test_a_killed_rank_is_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the others have ended before it was noticed; SIGTERM is ours."""
    leave(tmp_path, 0, monkeypatch, 'Connection closed by peer')
    leave(tmp_path, 1, monkeypatch, '')
    codes = {0: 1, 1: -signal.SIGKILL, 2: -signal.SIGTERM}
    assert who_ended(str(tmp_path), codes, 3) == (
        'rank 1 of 3 was ended by SIGKILL, and the others were stopped; its last line: '
        'step 3 of 1'
    )


def test_the_earliest_error_is_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, 2, monkeypatch, 'no images\nmore')
    leave(tmp_path, 0, monkeypatch, 'Connection closed by peer')
    assert who_ended(str(tmp_path), {0: 1, 2: 1}, None) == (
        'rank 2 has ended with exit code 1, and the others were stopped; '
        'its last line: RuntimeError: no images'
    )


def test_who_aborts_after_its_last_words_has_ended_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch can abort while it is torn down: the first to say its words counts."""
    leave(tmp_path, 2, monkeypatch, 'no images')
    leave(tmp_path, 0, monkeypatch, 'Connection closed by peer')
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit), last_words():
        raise SystemExit(143)
    codes = {
        0: -signal.SIGABRT,
        1: -signal.SIGABRT,
        2: -signal.SIGABRT,
        3: -signal.SIGTERM,
    }
    assert chosen_codes(str(tmp_path), codes) == {0: 1, 1: 143, 2: 1, 3: -15}
    assert who_ended(str(tmp_path), codes, 4) == (
        'rank 2 of 4 has ended with exit code 1, and the others were stopped; '
        'its last line: RuntimeError: no images'
    )


@pytest.mark.parametrize(
    ('asked', 'code'), [(None, 0), (0, 0), ('', 1), ('no', 1), (3, 3)]
)
def test_words_are_left_with_the_exit_code_unless_it_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | str | None, code: int
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv('RANK', '0')
    with pytest.raises(SystemExit), last_words():
        raise SystemExit(asked)
    assert bool(list(tmp_path.iterdir())) == bool(code)
    assert chosen_codes(str(tmp_path), {0: -6}) == {0: code or -6}


def test_who_is_interrupted_was_ended_by_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, 0, monkeypatch, 'Connection closed by peer')
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(KeyboardInterrupt), last_words():
        raise KeyboardInterrupt
    assert who_ended(str(tmp_path), {0: 1, 1: -signal.SIGINT}, 2) == (
        'rank 1 of 2 was ended by SIGINT, and the others were stopped'
    )


def test_nothing_is_left_outside_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    logger = logging.getLogger('alone')
    follow(logger)
    assert not logger.handlers
    with pytest.raises(SystemExit), last_words():
        raise SystemExit(3)
