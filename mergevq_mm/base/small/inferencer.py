"""The order of an inferencer's work."""

from __future__ import annotations

from typing import Any


class BaseInferencer:
    """Hands each argument of a call to the step that takes it."""

    preprocess_kwargs: set[str] = set()
    forward_kwargs: set[str] = set()
    visualize_kwargs: set[str] = set()
    postprocess_kwargs: set[str] = set()

    def preprocess(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Batches of what a subclass works on."""
        raise NotImplementedError

    def _dispatch_kwargs(self, **kwargs: Any) -> tuple[dict, dict, dict, dict]:
        """Arguments of preprocess, forward, visualize and postprocess."""
        steps = (
            self.preprocess_kwargs,
            self.forward_kwargs,
            self.visualize_kwargs,
            self.postprocess_kwargs,
        )
        unknown = set(kwargs).difference(*steps)
        if unknown:
            raise ValueError(f'unknown arguments {sorted(unknown)} of the call.')
        before, during, seen, after = (
            {name: value for name, value in kwargs.items() if name in taken}
            for taken in steps
        )
        return before, during, seen, after
