"""One training iteration of a model with a generator and a discriminator side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mergevq_mm.base.algorithm import BaseSelfSupervisor
from mergevq_mm.base.process import current_iteration
from mergevq_mm.utils.distributed import unwrap

from ..utils.finite import all_finite, copy_buffers, guarded_update, restore_buffers

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapperDict


class TwoSidedModel(BaseSelfSupervisor):
    """Base of models that two optimizers train in turn on the same batch.

    A subclass names the parts of its generator side in ``GENERATOR_PARTS``, has a
    ``discriminator`` or None, and computes :meth:`generator_losses` and
    :meth:`discriminator_losses`. Gradient accumulation, mixed precision and clipping
    are those of each optimizer wrapper. Parts are called through ``forward`` alone, so
    that ``MMSeparateDistributedDataParallel`` may wrap each of them.
    """

    GENERATOR_PARTS: tuple[str, ...] = ()
    discriminator: nn.Module | None

    def generator_losses(
        self, inputs: Tensor | list[Tensor], data_samples: list[Any] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the generator side, and what the discriminator will need."""
        raise NotImplementedError

    def discriminator_losses(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of the discriminator on what the generator side made."""
        raise NotImplementedError

    def after_generator_step(self) -> None:
        """Called after each step of the generator's optimizer."""

    def init_weights(self) -> None:
        """Initialise each part on its own, then what the model's ``init_cfg`` names.

        mmengine passes over parts that are wrapped for distributed training, and
        mmagic's discriminators fail when a parent initialises them.
        """
        for part in self.children():
            part = unwrap(part)
            initialize = getattr(part, 'init_weights', None)
            if initialize is not None and not getattr(part, 'is_init', False):
                initialize()
        super().init_weights()

    def generator_parts(self) -> dict[str, nn.Module]:
        """The parts of the generator side by name, as they are wrapped."""
        parts = {name: getattr(self, name, None) for name in self.GENERATOR_PARTS}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def iteration(self) -> int:
        """Number of the current training iteration; 0 outside a run."""
        return current_iteration()

    def train_step(
        self, data: dict[str, Any], optim_wrapper: OptimWrapperDict
    ) -> dict[str, Tensor]:
        """Update the generator side, then the discriminator with the same batch.

        A loss that is not finite reaches no weight: the iteration is skipped on all
        ranks and reported as ``nonfinite`` (see ``NaNGuardHook``). So is a side's step
        whose gradients are not finite although the losses are; the other side steps.
        Steps that a loss scaler drops are reported as ``dropped``.

        Args:
            data (dict): A batch from the data loader.
            optim_wrapper (OptimWrapperDict): With the keys ``generator`` and, where
                there is a discriminator, ``discriminator``.

        Returns:
            dict[str, Tensor]: What to log.
        """
        data = self.data_preprocessor(data, training=True)
        buffers = copy_buffers(self)  # running averages, which forward passes update
        generator = optim_wrapper['generator']
        with ExitStack() as stack:
            for part in self.generator_parts().values():
                stack.enter_context(generator.optim_context(part))
            with frozen(self.discriminator):
                losses, outputs = self.generator_losses(
                    data['inputs'], data['data_samples']
                )
            total, log = self.parse_losses(losses)
        losses_d: dict[str, Tensor] = {}
        if self.discriminator is not None and outputs:
            discriminator = optim_wrapper['discriminator']
            with discriminator.optim_context(self.discriminator):
                losses_d = self.discriminator_losses(outputs)
                total_d, log_d = self.parse_losses(losses_d)
            log_d['loss_discriminator'] = log_d.pop('loss')
            log.update(log_d)
        if not all_finite({**losses, **losses_d}):
            restore_buffers(self, buffers)
            return {**log, 'nonfinite': torch.ones(())}

        update = guarded_update(generator, total)
        if update.stepped:
            self.after_generator_step()
        flags = update.flags()
        if losses_d:
            for name, bad in guarded_update(discriminator, total_d).flags().items():
                flags[name] = torch.maximum(bad, flags.get(name, bad))
        return {**log, **flags}


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Keep gradients out of a module's parameters, but let them flow through it."""
    learned = [] if module is None else list(module.parameters())
    learned = [p for p in learned if p.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
