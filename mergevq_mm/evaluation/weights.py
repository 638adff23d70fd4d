"""Early check of the weights that metrics are configured with."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mergevq_mm.base.process import all_reduce, print_log


def check_weights_path(path_or_url: str | None, argument: str) -> None:
    """Stop early where a local file of weights is not there.

    Args:
        path_or_url (str, optional): Path, or URL (known only once it is loaded).
        argument (str): Name of the argument for the message.

    Raises:
        FileNotFoundError: If it is a local path and there is no such file.
    """
    if not path_or_url or '://' in path_or_url:
        return
    if os.path.isfile(os.path.expanduser(path_or_url)):
        return
    raise FileNotFoundError(
        f'{argument}={path_or_url!r} is no file; give the path of downloaded weights '
        'or a URL, or leave this metric out of the evaluator.'
    )


class WeightsFirst:
    """Mixin of a metric that loads its weights when it is made.

    A Runner makes the metrics of the validation before it trains: what is missing shows
    then, not hours later at the first validation. A metric whose weights can neither be
    found nor downloaded warns once and is left out on all ranks.

    Attributes:
        ready (bool): Whether the metric measures.
    """

    ready = True

    def load_weights(self, load: Callable[[], Any], required: bool) -> None:
        """Load the weights, or find out that the metric is left out.

        Args:
            load (Callable): Loads them.
            required (bool): Whether it is an error if they are not there.

        Raises:
            FileNotFoundError: If they are required and not there.
            ImportError: If they are required and their package is missing.
        """
        problem = None
        try:
            load()
        except (FileNotFoundError, ImportError) as error:
            problem = error
        if required and problem is not None:
            raise problem
        # Ranks on another machine may have the file: all measure, or none does.
        flag = torch.tensor(int(problem is None))
        all_reduce(flag, op='min')
        self.ready = bool(flag)
        if not self.ready:
            problem = problem or 'another machine of this run lacks its weights'
            print_log(
                f'{type(self).__name__} is left out of the evaluation: {problem} '
                'To make this an error, set required=True.',
                logger='current',
                level=logging.WARNING,
            )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Measure one batch, if the weights are there; see the metric."""
        if self.ready:
            super().process(data_batch, data_samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """The numbers of all batches; none where the metric is left out.

        Args:
            size (int): Length of the data set.

        Returns:
            dict[str, float]: Name to number.
        """
        return super().evaluate(size) if self.ready else {}
