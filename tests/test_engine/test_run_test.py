"""Metrics of a test, from loops that return them and from mmagic's, which log them."""

from __future__ import annotations

from types import SimpleNamespace

from mmengine.logging import MessageHub

from mergevq_mm.engine.testing import run_test


def test_loop_that_returns():
    assert run_test(SimpleNamespace(test=lambda: {'psnr': 1.0})) == {'psnr': 1.0}


def test_loop_that_logs():
    hub = MessageHub('run_test')
    hub.update_scalar('train/loss', 3.0)
    hub.update_scalar('test/gen/frechet', 7.0)

    def test() -> None:
        hub.update_scalar('test/gen/frechet', 5.0)

    runner = SimpleNamespace(test=test, message_hub=hub)
    assert run_test(runner) == {'gen/frechet': 5.0}
