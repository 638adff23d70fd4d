"""MergeVQ, stage 1: one tokenizer for seeing and for drawing (paper Fig. 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mergevq_mm.registry import MODELS
from mergevq_mm.utils.distributed import unwrap

from ..backbones.mergevq_encoder import MergeVQEncoder
from ..decoders.mergevq_decoder import MergeVQDecoder
from ..heads.mergevq_head import MergeVQHead
from ..losses.adversarial import LeCAM, hinge_discriminator_loss
from ..necks.source_recovery import GroupMapRecovery, SourceRecovery
from ..quantizers.lfq import LFQ
from ..target_generators.ema_teacher import EMATeacher
from ..utils.budget import Budget, is_list, plain_numbers
from ..utils.budget_signals import encode_ragged
from ..utils.labels import class_labels
from ..utils.merge_schedule import clip_removed, merge_schedule, share_schedule
from ..utils.ragged import Ragged
from ..utils.structures import MergedTokens, QuantizedTokens, RecoveredTokens
from .mergevq_checks import (
    check_images,
    check_losses,
    check_parts,
    read_keep_sampler,
    read_test_keep,
)
from .mergevq_prediction import predict_samples
from .two_sided import TwoSidedModel

if TYPE_CHECKING:
    from mmpretrain.structures import DataSample


@MODELS.register_module()
class MergeVQ(TwoSidedModel):
    """Tokenizer that merges, quantises, recovers and decodes.

    ::

        image ─ backbone ─ K tokens ─ quantizer ─ K codes ─ neck ─ L codes ─ decoder
                   │  └─ source map of L integers ────────────┘              │
                   └─ [CLS] ─ head ─ alignment with target_generator      image

    Differences: K is drawn at random, not swept; the alignment view keeps the same
    share of its tokens as the reconstructed one, not the same number less; the EMA
    steps with the optimizer and leaves the discriminator out.

    Args:
        backbone (dict): The encoder, ``mergevq_mm.MergeVQEncoder``.
        quantizer (dict): ``mergevq_mm.LFQ``.
        neck (dict): The recovery, ``mergevq_mm.SourceRecovery`` (learned, trained
            along) or ``mergevq_mm.GroupMapRecovery``.
        decoder (dict): ``mergevq_mm.MergeVQDecoder``.
        head (dict): The losses, ``mergevq_mm.MergeVQHead``.
        discriminator (dict, optional): Scores patches of an image, B×3×H×W to B×1×h×w.
            Defaults to None, no adversarial loss.
        target_generator (dict, optional): The teacher whose features the class token is
            aligned with. Defaults to None.
        keep (int | float | dict, optional): Tokens to keep during training, K, or their
            share of L, or the arguments of :class:`KeepSampler`. Defaults to None, all.
        discriminator_start (int): Iteration from which the discriminator trains and
            its loss counts. Defaults to 0.
        lecam_weight (float): Of the LeCAM regularizer. Defaults to 0.01.
        legacy_absolute_merge (bool): Whether the alignment view merges as many tokens
            as the reconstructed one, as the authors' code does, instead of the same
            share. Defaults to False.
        test_cfg (dict, optional): ``keep``, one or several numbers of tokens to
            evaluate at (or shares of those of the backbone's ``img_size``), and
            ``predict_source``, whether also with the predicted source map. Defaults to
            None: the training target, with the predicted map where it is trained.
        data_preprocessor (dict, optional): Defaults to None, mmpretrain's
            ``SelfSupDataPreprocessor`` to [-1, 1].
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If the parts do not fit each other, or a K cannot be reached; before
            training, if a part or a loss would have no effect.
    """

    GENERATOR_PARTS: tuple[str, ...]
    GENERATOR_PARTS = ('backbone', 'quantizer', 'neck', 'decoder', 'head')
    backbone: MergeVQEncoder
    quantizer: LFQ
    neck: SourceRecovery | GroupMapRecovery
    decoder: MergeVQDecoder
    head: MergeVQHead

    def __init__(
        self,
        backbone: dict[str, Any],
        quantizer: dict[str, Any],
        neck: dict[str, Any],
        decoder: dict[str, Any],
        head: dict[str, Any],
        discriminator: dict[str, Any] | None = None,
        target_generator: dict[str, Any] | None = None,
        keep: int | float | dict[str, Any] | None = None,
        discriminator_start: int = 0,
        lecam_weight: float = 0.01,
        legacy_absolute_merge: bool = False,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        to_unit = {'mean': [127.5] * 3, 'std': [127.5] * 3, 'to_rgb': True}
        if data_preprocessor is None or isinstance(data_preprocessor, dict):
            data_preprocessor = {
                'type': 'mmpretrain.SelfSupDataPreprocessor',
                **(data_preprocessor or to_unit),
            }
        teacher = MODELS.build(target_generator) if target_generator else None
        super().__init__(
            backbone=MODELS.build(backbone),
            neck=MODELS.build(neck),
            head=MODELS.build(head),
            target_generator=teacher,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.quantizer = MODELS.build(quantizer)
        self.decoder = MODELS.build(decoder)
        self.discriminator = MODELS.build(discriminator) if discriminator else None
        self.lecam = LeCAM(weight=lecam_weight) if discriminator else None
        self.discriminator_start = discriminator_start
        self.legacy_absolute_merge = legacy_absolute_merge

        length = self.backbone.grid[0] * self.backbone.grid[1]
        self.keep_sampler = read_keep_sampler(keep, length)
        test_cfg = test_cfg or {}
        test_keep = test_cfg.get('keep', self.keep_sampler.target)
        self.test_keep = read_test_keep(test_keep, length)
        trained = self.neck.learned and self.head.source is not None
        self.predict_source = test_cfg.get('predict_source', trained)
        check_parts(self, length)
        if isinstance(self.target_generator, EMATeacher):
            self.target_generator.attach(**self._students())

    # ---------------------------------------------------------------- the tokenizer

    def encode(
        self, images: Tensor, keep: int | Budget | Sequence[int] | None = None
    ) -> tuple[MergedTokens, QuantizedTokens] | tuple[Ragged, Ragged]:
        """Images to K merged tokens and their codes.

        Args:
            images (Tensor): B×3×H×W in [-1, 1].
            keep (int | Budget | Sequence[int], optional): K, or what to spend on the
                batch, or K of each image, also a tensor. Defaults to None, all tokens.

        Returns:
            tuple[MergedTokens, QuantizedTokens] | tuple[Ragged, Ragged]: Tokens with
            their map, and codes; ragged where the images have a K each.

        Raises:
            ValueError: If ``images`` are no such batch.
        """
        if not self.training:  # what a pipeline makes needs no look at each value
            check_images(images)
        keep = plain_numbers(keep)
        if isinstance(keep, Budget) or is_list(keep):
            merged = encode_ragged(self, images, keep)
            return merged, merged.map(lambda part: self.quantizer(part.tokens))
        return self._encode(images, keep)

    def _encode(
        self, images: Tensor, keep: int | None
    ) -> tuple[MergedTokens, QuantizedTokens]:
        merged: MergedTokens = self.backbone(images, keep, mode='encode')
        return merged, self.quantizer(merged.tokens)

    def decode(
        self,
        codes: Tensor | MergedTokens | Ragged,
        group: Tensor | QuantizedTokens | Ragged | None,
        grid: tuple[int, int] | None = None,
        **told: Tensor | Ragged | None,
    ) -> tuple[Tensor, RecoveredTokens | Ragged]:
        """K codes to images.

        Args:
            codes (Tensor | MergedTokens | Ragged): B×K×d in {-1, 1}, or their indices,
                B×K int64. Or, with the next one or None, what :meth:`encode` returns.
            group (Tensor | QuantizedTokens | Ragged, optional): Token of each raster
                position, B×L int64. With None the neck predicts it.
            grid (tuple[int, int], optional): Rows and columns; that of ``codes`` where
                these are merged tokens.
            **told (Tensor | Ragged, optional): ``labels`` and ``first`` of
                :class:`SourceRecovery`, for the prediction; ragged where ``codes`` are.

        Returns:
            tuple[Tensor, RecoveredTokens]: Images B×3×H×W, and the codes on the grid,
            :class:`Ragged` where the images have a K each.

        Raises:
            ValueError: If they do not say which image they are of.
        """
        if isinstance(codes, Ragged):
            made = codes.map(self.decode, group, grid, **told)
            return made.map(lambda m: m[0]).join(), made.map(lambda m: m[1])
        if isinstance(codes, MergedTokens) and isinstance(group, QuantizedTokens):
            return self._decode(group.codes, codes.group, codes.grid, **told)
        if isinstance(codes, MergedTokens) and group is None:
            grid, codes = codes.grid, self.quantizer(codes.tokens).codes
        if not isinstance(codes, Tensor) or not isinstance(group, (Tensor, type(None))):
            raise ValueError(
                f'codes of {type(codes).__name__} do not go with group of '
                f'{type(group).__name__}; give tensors, or both that encode returns.'
            )
        if not codes.is_floating_point():
            codes = unwrap(self.quantizer).index_to_codes(codes)
            codes = codes.to(next(self.decoder.parameters()).dtype)
        if grid is None:
            raise ValueError('grid=None; give rows and columns of the raster.')
        return self._decode(codes, group, grid, **told)

    def _decode(
        self,
        codes: Tensor,
        group: Tensor | None,
        grid: tuple[int, int],
        **told: Tensor | Ragged | None,
    ) -> tuple[Tensor, RecoveredTokens]:
        recovered: RecoveredTokens = self.neck(codes, group, grid, **told)
        return self.decoder(recovered.tokens, grid), recovered

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, keep: int | Budget | Sequence[int] | None = None
    ) -> Tensor:
        """Images from their tokens, B×3×H×W in about [-1, 1]; see :meth:`encode`."""
        return self.decode(*self.encode(images, keep))[0]

    # ------------------------------------------------------------------ the losses

    def generator_losses(
        self, inputs: Tensor | list[Tensor], data_samples: list[Any] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of encoder, quantizer, recovery, decoder and head.

        Args:
            inputs (Tensor | list[Tensor]): The image to reconstruct, B×3×H×W, or with
                it the student's and the teacher's view for the alignment.
            data_samples (list[DataSample], optional): Of the batch.

        Returns:
            tuple[dict, dict]: Losses and diagnostics, and for the discriminator the
            image and its reconstruction (empty before ``discriminator_start``).

        Raises:
            ValueError: If a part or a loss would have no effect.
        """
        check_losses(self)
        image, *views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        keep = self.keep_sampler(self.iteration)

        merged, quantized = self._encode(image, keep)
        told = self._told(data_samples, image.device)
        recon, recovered = self._decode(
            quantized.codes, merged.group, merged.grid, **told
        )
        cls = self._aligned_cls(views, merged, keep)
        target = None
        if self.target_generator is not None:
            target = self.target_generator([image, *views][-1], data_samples)
        losses, compared = self._compare(
            recon,
            image,
            cls=cls,
            target=target,
            source_logits=recovered.logits,
            group=merged.group,
            index=quantized.index,
            data_samples=data_samples,
        )
        losses.update(quantized.losses)
        losses['keep'] = torch.tensor(float(keep))
        return losses, compared

    def _compare(
        self, recon: Tensor, image: Tensor, **made: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of a reconstruction, and what the discriminator is to compare."""
        fake_logits, compared = None, {}
        started = self.iteration >= self.discriminator_start
        if self.discriminator is not None and started:
            # Through the bare discriminator: its wrapper would wait for gradients that
            # this pass does not make.
            fake_logits = unwrap(self.discriminator)(recon)
            compared = {'real': image, 'fake': recon.detach()}
        return self.head(recon, image, fake_logits=fake_logits, **made), compared

    def _told(
        self, data_samples: list[Any] | None, device: torch.device
    ) -> dict[str, Tensor]:
        """What the neck is told beside the codes: the classes, if it takes them."""
        if not unwrap(self.neck).num_classes:
            return {}
        return {'labels': class_labels(data_samples, 'neck.num_classes', device)}

    def _aligned_cls(
        self, views: Sequence[Tensor], merged: MergedTokens, keep: int
    ) -> Tensor:
        """Class token of the student's view, or of the image where it has none."""
        if not views or unwrap(self.head).alignment is None:
            return merged.cls
        backbone = unwrap(self.backbone)
        length, layers = merged.group.shape[1], backbone.num_layers
        seen = math.prod(backbone.grid_of(*views[0].shape[-2:]))
        if self.legacy_absolute_merge:
            plan = merge_schedule(length, keep, layers, backbone.schedule)
            plan = clip_removed(seen, plan)
        else:
            plan = share_schedule(seen, keep / length, layers, backbone.schedule)
        seen_by: MergedTokens = self.backbone(views[0], removed=plan, mode='encode')
        return seen_by.cls

    def discriminator_losses(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hinge loss and LeCAM regularizer on an image and its reconstruction."""
        assert self.discriminator is not None and self.lecam is not None
        real = self.discriminator(outputs['real'])
        fake = self.discriminator(outputs['fake'])
        return {
            'loss_d_hinge': hinge_discriminator_loss(real, fake),
            'loss_d_lecam': self.lecam(real, fake),
            'd_real': real.detach().float().mean(),
            'd_fake': fake.detach().float().mean(),
        }

    def after_generator_step(self) -> None:
        """Let an EMA self-teacher follow the student."""
        if isinstance(self.target_generator, EMATeacher):
            self.target_generator.update(**self._students())

    def init_weights(self) -> None:
        """Initialise all parts for training, and an EMA self-teacher from the student.

        Raises:
            ValueError: If a part or a loss would have no effect.
        """
        check_losses(self)
        super().init_weights()
        self.after_generator_step()

    def _students(self) -> dict[str, nn.Module]:
        """What an EMA self-teacher averages."""
        alignment = unwrap(self.head).alignment
        assert alignment is not None  # or `check_parts` had refused the teacher
        return {'backbone': unwrap(self.backbone), 'projector': alignment.projector}

    # -------------------------------------------------------------- mmpretrain's modes

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[DataSample] | None = None,
        mode: str = 'tensor',
    ) -> tuple[Tensor, ...] | dict[str, Tensor] | list[DataSample]:
        """Features of the backbone ('tensor'), losses ('loss'), samples ('predict')."""
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        made: tuple[Tensor, ...] | dict[str, Tensor]
        made = super().forward(inputs, data_samples, mode)
        return made

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list[DataSample] | None
    ) -> dict[str, Tensor]:
        """Losses of the generator side."""
        return self.generator_losses(inputs, data_samples)[0]

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[DataSample] | None = None,
    ) -> list[DataSample]:
        """Reconstruct images at each K of ``test_cfg``.

        Args:
            inputs (Tensor | list[Tensor]): Images, B×3×H×W in [-1, 1], or views of
                them, of which it is the first.
            data_samples (list[DataSample], optional): To fill. Defaults to None, new.

        Returns:
            list[DataSample]: With ``original`` 3×H×W in [0, 1], ``grid``, ``bits`` of
            a code, and ``reconstructions``: for each K a dict with ``image``,
            ``index`` (K) and ``group`` (L); where the source map is predicted, also
            ``predicted_image`` and ``predicted_group``.
        """
        image = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        return predict_samples(self, image, data_samples)
