"""LPIPS of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from mergevq_mm.registry import METRICS

from ..functional import kept_counts, originals, stacked
from ..weights import check_weights_path
from .base import MeanOverImages


@METRICS.register_module()
class LPIPSMetric(MeanOverImages):
    """Learned perceptual distance per image in fp32, averaged, at every K.

    Name: ``recon/K16/lpips_alex`` (lower is better). The network belongs to the metric,
    not to the model, and is built at the first batch: it is in no checkpoint.

    Args:
        net (str): 'alex', 'vgg' or 'squeeze'. Defaults to 'alex', as is usual for
            evaluation.
        checkpoint (str, optional): Path or URL of torchvision's ImageNet weights of
            this network; the learned channel weights come with the ``lpips`` package.
            Defaults to None, torchvision's URL, which must be reachable.
        **kwargs: ``keeps``, ``collect_device``, ``prefix``, ``collect_dir``.

    Raises:
        ValueError: If ``net`` is unknown.
        FileNotFoundError: If ``checkpoint`` is a path and there is no such file.
    """

    default_prefix = 'recon'

    def __init__(
        self, net: str = 'alex', checkpoint: str | None = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        if net not in ('alex', 'vgg', 'squeeze'):
            raise ValueError(
                f"net={net!r} of LPIPSMetric is not known; choose 'alex', 'vgg' or "
                "'squeeze'."
            )
        check_weights_path(checkpoint, 'checkpoint')
        self.net = net
        self.checkpoint = checkpoint
        self._network: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """nn.Module: The LPIPS network, built and loaded at the first use."""
        if self._network is None:
            from mergevq_mm.models.losses.perceptual import LPIPSLoss

            self._network = LPIPSLoss(self.net, self.checkpoint).eval()
        return self._network

    def measure(self, samples: Sequence[Mapping]) -> dict[str, Sequence[float]]:
        """Measure the LPIPS of B predictions, see the base class."""
        original = originals(samples).float()
        network = self.network.to(original.device)
        measured = {}
        for keep in kept_counts(samples, self.keeps):
            image = stacked(samples, keep, 'image').float()
            distance = network.distance(image * 2 - 1, original * 2 - 1)  # B
            measured[f'K{keep}/lpips_{self.net}'] = distance.tolist()
        return measured
