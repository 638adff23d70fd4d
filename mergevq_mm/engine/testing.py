"""Test a model and get its metrics, whatever loop runs."""

from __future__ import annotations

from mmengine.runner import Runner


def run_test(runner: Runner) -> dict[str, float]:
    """Test and return the metrics.

    mmagic's ``MultiTestLoop`` returns nothing; what it measured stands in the message
    hub.

    Args:
        runner (Runner): Built, not yet run.

    Returns:
        dict[str, float]: Name to value.
    """
    metrics = runner.test()
    if metrics is not None:
        return metrics
    logged = runner.message_hub.log_scalars.items()
    return {
        name.removeprefix('test/'): value.current()
        for name, value in logged
        if name.startswith('test/')
    }
