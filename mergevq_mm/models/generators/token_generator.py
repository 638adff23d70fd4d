"""What mmagic's loops, metrics and hooks see of a generator of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mergevq_mm.base.module import BaseDataPreprocessor, BaseModel
from mergevq_mm.base.process import current_iteration
from mergevq_mm.registry import MODELS

from ..utils.evaluating import evaluating
from ..utils.keep_sampling import KeepSampler
from .data_parallel import guarded_train_step
from .data_preprocessor import GeneratorDataPreprocessor
from .editing import KnownCodes, place_codes, tokenize_known
from .generation_request import (
    ImageCounter,
    Samples,
    labels_of,
    pack_samples,
    read_request,
    seeds_of,
)
from .structures import CodeBatch, SampledCodes

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper
    from mmengine.structures import BaseDataElement

    from .tokenizer import FrozenTokenizer


class TokenGenerator(BaseModel):
    """Base of the class-conditional generators of a frozen tokenizer's codes.

    A subclass computes :meth:`loss_codes` and draws with :meth:`sample_codes`; what
    surrounds codes is here: the tokenizer, the K of an iteration, images encoded on the
    fly or codes from the disk, images for mmagic's evaluation, the random numbers.

    The images of a run are numbered, and image i depends on the seed and on i alone,
    whatever batch and rank draw it: its class is i modulo the number of classes, its
    noise comes from :func:`~.sampling.sample_seeds`. In an evaluation rank r of R draws
    r, r + R, r + 2R, …; counting starts again with each :meth:`eval`. mmagic's metrics
    ask for whole batches and take what they need rank after rank: choose a batch size
    that divides the number of images of a rank, so that they take 0 to N - 1.

    Args:
        tokenizer (dict): ``mergevq_mm.FrozenTokenizer``.
        num_classes (int): Number of classes.
        keep (int | dict, optional): K, or the arguments of :class:`KeepSampler`.
            Defaults to None, L: no merging.
        sample_cfg (dict, optional): What :meth:`sample_codes` takes beside labels, K
            and seeds; also ``keep``, the K of generated images (by default the target
            of ``keep``), and ``seed`` (0). Defaults to None.
        data_preprocessor (dict, optional): Of :class:`GeneratorDataPreprocessor`.
            Defaults to None: images are BGR.
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If there are no classes, or a K is larger than the tokenizer's L.
    """

    data_preprocessor: BaseDataPreprocessor
    tokenizer: FrozenTokenizer
    any_region = False  # whether an edit may leave known codes behind its region

    def __init__(
        self,
        tokenizer: dict[str, Any],
        num_classes: int,
        keep: int | dict[str, Any] | None = None,
        sample_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        cfg = {'type': GeneratorDataPreprocessor, **(data_preprocessor or {})}
        super().__init__(MODELS.build(cfg), init_cfg)
        if num_classes < 1:
            raise ValueError(
                f'num_classes={num_classes} leaves nothing to generate; give the '
                'number of classes of the data set.'
            )
        self.tokenizer = MODELS.build(tokenizer)
        self.num_classes = num_classes
        length = self.tokenizer.length
        if not isinstance(keep, Mapping):
            keep = length if keep is None else keep
            keep = {'target': keep, 'candidates': [keep]}
        self.keep_sampler = KeepSampler(**keep)
        self.keeps = tuple(sorted(set(self.keep_sampler.candidates)))
        if self.keeps[-1] > length:
            raise ValueError(
                f'keep={list(self.keeps)} holds more tokens than the {length} of the '
                'tokenizer; give K of at most that.'
            )
        self.sample_cfg = dict(sample_cfg or {})
        self.check_keep(self.sample_cfg.get('keep', self.keep_sampler.target))
        self._counter = ImageCounter()

    # ------------------------------------------------------------- of the subclass

    def loss_codes(self, batch: CodeBatch) -> dict[str, Tensor]:
        """Losses ``loss_*`` and diagnostics of tokenized images."""
        raise NotImplementedError

    def sample_codes(
        self, labels: Tensor, keep: int, seeds: Sequence[int], **sample_cfg: Any
    ) -> SampledCodes:
        """Draw codes of B images of given classes, each from its own seed."""
        raise NotImplementedError

    # ------------------------------------------------------------------- the model

    @property
    def GENERATOR_PARTS(self) -> tuple[str, ...]:
        """tuple[str, ...]: All parts that learn, for ``GeneratorEMAHook``."""
        parts = self.named_children()
        return tuple(
            name for name, part in parts if next(part.parameters(), None) is not None
        )

    @property
    def device(self) -> torch.device:
        """torch.device: Where the model computes."""
        return self.data_preprocessor.device

    @property
    def grid(self) -> tuple[int, int]:
        """tuple[int, int]: Rows and columns of the tokenizer's raster."""
        return self.tokenizer.grid

    @property
    def iteration(self) -> int:
        """Number of the current training iteration; 0 outside a run."""
        return current_iteration()

    def train(self, mode: bool = True) -> TokenGenerator:
        """Training or evaluation mode; images are counted from 0 again."""
        self._counter = ImageCounter()
        return super().train(mode)

    def forward(
        self,
        inputs: Tensor | Mapping[str, Any],
        data_samples: Samples = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | list[BaseDataElement]:
        """Losses ('loss') or generated images ('predict' and 'tensor').

        Args:
            inputs (Tensor | Mapping): In training images B×3×H×W in [-1, 1] or a batch
                of ``MergeVQCodes``; otherwise a request, see :meth:`predict`.
            data_samples (Sequence, optional): With ``gt_label``, the classes. Defaults
                to None.
            mode (str): Defaults to 'tensor'.

        Returns:
            dict[str, Tensor] | list[DataSample]: Losses, or samples.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.predict(inputs, data_samples)

    # ------------------------------------------------------------------- training

    def train_step(
        self, data: dict[str, Any], optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """One iteration of a single process, see :func:`guarded_train_step`."""
        return guarded_train_step(self, self, data, optim_wrapper)

    def loss(
        self, inputs: Tensor | Mapping[str, Any], data_samples: Samples
    ) -> dict[str, Tensor]:
        """Losses at the K of this iteration."""
        batch = self.encode(inputs, data_samples, self.keep_sampler(self.iteration))
        losses = self.loss_codes(batch)
        losses['keep'] = torch.tensor(float(batch.index.shape[1]))
        return losses

    @torch.no_grad()
    def encode(
        self, inputs: Tensor | Mapping[str, Any], data_samples: Samples, keep: int
    ) -> CodeBatch:
        """Codes of a batch at one K: from images, or out of cached codes.

        Args:
            inputs (Tensor | Mapping): Images B×3×H×W in [-1, 1], or a batch of
                ``MergeVQCodes`` with ``index_K<keep>`` and ``group_K<keep>``, or of a
                K of its own with ``index`` and ``group``.
            data_samples (Sequence): B samples with ``gt_label``.
            keep (int): K, where the batch has none.

        Returns:
            CodeBatch: Codes, groups and classes.

        Raises:
            ValueError: If the cached codes lack this K or are of another raster, or
                there are no classes.
        """
        labels = labels_of(data_samples)
        if labels is None:
            raise ValueError(
                'data_samples have no gt_label, but the generator learns the images of '
                'a class; use a data set with classes.'
            )
        labels = self.check_labels(labels.to(self.device))
        if isinstance(inputs, Mapping):
            index, group = self._cached(inputs, keep)
        else:
            index, group, _ = self.tokenizer.encode(inputs, keep)
        return CodeBatch(index.long(), group.long(), labels, self.grid)

    def _cached(self, inputs: Mapping[str, Tensor], keep: int) -> tuple[Tensor, Tensor]:
        end = '' if 'index' in inputs else f'_K{keep}'
        if f'index{end}' not in inputs:
            found = sorted(int(k[7:]) for k in inputs if k.startswith('index_K'))
            raise ValueError(
                f'keep={keep} is not among the cached codes, which are of K={found}; '
                "extract it too (tools/extract_codes.py --keep), or change the model's "
                'keep.'
            )
        index, group = inputs[f'index{end}'], inputs[f'group{end}']
        if not end:  # these images have one K of their own
            keep = self.check_keep(index.shape[1])
        if (index.shape[1], group.shape[1]) != (keep, self.tokenizer.length):
            raise ValueError(
                f'cached codes at K={keep} have {index.shape[1]} codes and '
                f'{group.shape[1]} positions, but the tokenizer has '
                f'{self.tokenizer.length} positions; extract them with this tokenizer.'
            )
        return index, group

    # ----------------------------------------------------------------- generation

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor | Sequence[int] | None,
        keep: int | None = None,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        known: Tensor | None = None,
        region: Tensor | None = None,
        **sample_cfg: Any,
    ) -> tuple[Tensor, SampledCodes]:
        """Images of given classes, or images of which a region is drawn anew.

        An edit keeps the codes of all places outside of the region, to the bit; the
        decoder looks at neighbours, so that their pixels may change a little. RandAR
        draws any region (at K < L the tokens that lie wholly in it, see
        :mod:`.editing`), MergeAR one that reaches to the end of the raster.

        Args:
            labels (Tensor | Sequence[int], optional): B classes; None draws without
                class and guidance, as many as there are seeds or known images.
            keep (int, optional): K. Defaults to None, that of ``sample_cfg``.
            seed (int, optional): Of the whole batch, image i draws from stream i.
                Defaults to None, that of ``sample_cfg``.
            seeds (Sequence[int], optional): Instead, one for each image. Defaults to
                None.
            known (Tensor, optional): Images to edit, B×3×H×W in [-1, 1], or one for
                all. Defaults to None.
            region (Tensor, optional): What of them is drawn anew: H×W or B×H×W, bool
                or 0 and 1. A token of which a pixel is in the region is. Defaults to
                None.
            **sample_cfg (Any): Instead of what the config's ``sample_cfg`` has.

        Returns:
            tuple[Tensor, SampledCodes]: Images B×3×H×W in [-1, 1] and their codes; of
            an edit they are complete, B×L.

        Raises:
            ValueError: If a class, K or an option is out of range, or a region does not
                fit its image or the generator.
        """
        cfg = {**self.sample_cfg, **sample_cfg}
        if labels is None:  # nothing to contrast with nothing
            cfg['guidance'] = 1.0
        labels = self._classes(labels, known if seeds is None else seeds)
        default_keep = cfg.pop('keep', self.keep_sampler.target)
        default_seed = cfg.pop('seed', 0)
        keep = self.check_keep(default_keep if keep is None else keep)
        if seeds is None:
            seeds = seeds_of(default_seed if seed is None else seed, range(len(labels)))
        if len(seeds) != len(labels):
            raise ValueError(
                f'seeds are {len(seeds)} for {len(labels)} labels; give one for each.'
            )
        known = None if known is None else torch.as_tensor(known).to(self.device)
        with evaluating(self):
            kept = tokenize_known(self.tokenizer, known, region, keep, len(labels))
            if kept is not None:
                cfg['known'] = kept
            drawn = self.sample_codes(labels, keep, seeds, **cfg)
            return self._decoded(drawn, kept, labels)

    def _decoded(
        self, drawn: SampledCodes, kept: KnownCodes | None, labels: Tensor
    ) -> tuple[Tensor, SampledCodes]:
        """Codes, those of an edit on the raster, and their images.

        The recovery is told the classes if it knows as many.
        """
        told = {}
        if not drawn.complete and self.tokenizer.num_classes == self.num_classes:
            told['labels'] = labels
        if not drawn.complete and drawn.first is not None:
            told['first'] = drawn.first
        drawn = place_codes(self.tokenizer, drawn, kept, told.get('labels'))
        images = self.tokenizer.decode(drawn.index, self.grid, drawn.complete, **told)
        return images.clamp(-1, 1), drawn

    def _classes(
        self,
        labels: Tensor | Sequence[int] | None,
        others: Tensor | Sequence[int] | None,
    ) -> Tensor:
        """Classes that are asked for, B int64; without any, as many times none."""
        if labels is not None:
            return self.check_labels(torch.as_tensor(labels).to(self.device))
        if others is None:
            raise ValueError('labels=None does not say how many to draw; give seeds.')
        if not getattr(self, 'class_dropout', 0):
            raise ValueError(
                'labels=None needs a null class, which a generator with '
                'class_dropout=0 does not learn; give classes.'
            )
        return torch.full((len(others),), self.num_classes, device=self.device)

    def predict(
        self,
        inputs: Tensor | Mapping[str, Any],
        data_samples: Samples = None,
    ) -> list[BaseDataElement]:
        """Images as mmagic's evaluator and hooks take them.

        Args:
            inputs (Mapping): The request: ``num_batches``, the number of images here;
                or ``labels``, their classes; ``keep``, ``seed`` and ``sample_kwargs``
                as for :meth:`generate`; ``first``, the number of the first image, for
                images that follow one another (by default the next ones of the
                evaluation). ``sample_model`` is accepted: ``GeneratorEMAHook`` has
                swapped the weights before.
            data_samples (Sequence, optional): With the classes, instead. Defaults to
                None.

        Returns:
            list[DataSample]: mmagic's, each with ``fake_img`` (3×H×W in 0..255, whole
            numbers, BGR), ``gt_label``, ``sample_number`` and ``sample_stats``.

        Raises:
            ValueError: If the request cannot be understood.
        """
        labels, count, options = read_request(inputs, data_samples)
        assert isinstance(inputs, Mapping)  # or it had been refused
        if 'first' in inputs:
            numbers = list(range(inputs['first'], inputs['first'] + count))
        else:  # metrics that want other images are served by mmagic one by one
            series = (inputs.get('sample_model'), data_samples is None)
            numbers = self._counter.take(count, series)
        if labels is None:
            labels = [number % self.num_classes for number in numbers]
        seed = options.pop('seed', self.sample_cfg.get('seed', 0))
        images, drawn = self.generate(labels, seeds=seeds_of(seed, numbers), **options)
        return pack_samples(images, labels, numbers, drawn)

    # ------------------------------------------------------------------ bad input

    def check_keep(self, keep: int) -> int:
        """Refuse a K that the model has not been made for."""
        if keep not in self.keeps:
            raise ValueError(
                f'keep={keep} is not known to this generator; choose one of '
                f'{list(self.keeps)}.'
            )
        return keep

    def check_labels(self, labels: Tensor) -> Tensor:
        """Refuse classes that are not there; B int64."""
        if labels.is_floating_point() or not labels.numel():
            raise ValueError(
                f'labels={labels.tolist()} are no classes; give at least one whole '
                'number.'
            )
        labels = labels.flatten().long()
        bad = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(bad):
            raise ValueError(
                f'labels hold the class {bad[0].item()}; give classes from 0 to '
                f'{self.num_classes - 1}.'
            )
        return labels
