"""What MergeAR and RandAR share: embeddings, transformer, head and losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.lfq_functional import split_index
from ..utils.group_map import first_occurrence
from .architectures import resolve_architecture
from .code_drawing import SamplingRule
from .editing import KnownCodes
from .factorized_head import FactorizedEmbedding, FactorizedHead
from .first_places import Beginnings, join_places, place_bits, split_places
from .rotary import no_position
from .sampling import check_sampling
from .token_generator import TokenGenerator
from .transformer import CausalTransformer, init_llama


class CodeGenerator(TokenGenerator):
    """A transformer over a prefix of class and K, and over codes in parts.

    Args:
        tokenizer (dict): ``mergevq_mm.FrozenTokenizer``; its quantizer's ``split`` says
            of which parts a code is made up.
        arch (str | dict): 'B', 'L', 'XL' (LlamaGen's names), or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads``. Defaults to 'L'.
        num_classes (int): Defaults to 1000.
        keep (int | dict, optional): K, or the arguments of ``KeepSampler``; the table
            of instruction tokens has its candidates. Defaults to None, L: no merging.
        merge_token (bool): Whether the prefix has an instruction token for K. Defaults
            to True.
        class_dropout (float): Share of the training samples without a class, for
            guidance. Defaults to 0.1.
        dropout (float): In the transformer and after the embeddings. Defaults to 0.1.
        label_smoothing (float): Defaults to 0.
        first_places (bool): Whether the first part of a token is the place where its
            group begins, for a generator of the K codes; see :mod:`.first_places`.
            Defaults to False.
        sample_cfg (dict, optional): Arguments of ``sample_codes``. Defaults to None.
        data_preprocessor (dict, optional): Defaults to None.
        init_cfg (dict, optional): Initialization. Defaults to None.

    Raises:
        ValueError: If an argument is not known or does not fit the tokenizer.
    """

    prefix_factors: Tensor

    def __init__(
        self,
        tokenizer: dict[str, Any],
        arch: str | dict[str, Any] = 'L',
        num_classes: int = 1000,
        keep: int | dict[str, Any] | None = None,
        merge_token: bool = True,
        class_dropout: float = 0.1,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        first_places: bool = False,
        sample_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            tokenizer, num_classes, keep, sample_cfg, data_preprocessor, init_cfg
        )
        self.place_bits = place_bits(self.tokenizer.length) if first_places else 0
        split = (self.place_bits,) * first_places + tuple(self.tokenizer.split)
        if not 0 <= class_dropout < 1:
            raise ValueError(
                f'class_dropout={class_dropout} lies outside [0, 1); it is the share '
                'of the samples that are trained without a class.'
            )
        self.class_dropout, self.label_smoothing = class_dropout, label_smoothing
        arch = resolve_architecture(arch)
        dim, heads = arch['embed_dims'], arch['num_heads']
        multiple = arch.get('ffn_multiple', 256)
        self.prefix = 1 + merge_token
        # One class more: none, which guidance contrasts with.
        self.class_embedding = nn.Embedding(num_classes + (class_dropout > 0), dim)
        self.keep_embedding = (
            nn.Embedding(len(self.keeps), dim) if merge_token else None
        )
        self.embedding = FactorizedEmbedding(dim, split)
        self.dropout = nn.Dropout(dropout)
        self.transformer = CausalTransformer(
            dim, arch['num_layers'], heads, dropout, multiple
        )
        self.head = FactorizedHead(
            dim, split, heads, arch.get('head_layers', 2), dropout, multiple
        )
        self.register_buffer(
            'prefix_factors',
            no_position(self.prefix, self.transformer.head_dim),
            persistent=False,
        )

    def init_weights(self) -> None:
        """Normal weights of deviation 0.02 and heads of zeros, then ``init_cfg``'s."""
        init_llama(self)
        for head in self.head.heads.parameters():  # they have no biases
            nn.init.zeros_(head)
        super().init_weights()

    def embed_prefix(self, labels: Tensor, keep: int) -> Tensor:
        """Class and instruction tokens.

        Args:
            labels (Tensor): B int64; ``num_classes`` is no class.
            keep (int): K.

        Returns:
            Tensor: B×P×D.

        Raises:
            ValueError: If the instruction table does not have this K.
        """
        tokens = [self.class_embedding(labels)]
        if self.keep_embedding is not None:
            self.check_keep(keep)
            row = torch.full_like(labels, self.keeps.index(keep))
            tokens.append(self.keep_embedding(row))
        return torch.stack(tokens, dim=1)

    def tokens(self, index: Tensor, group: Tensor) -> Tensor:
        """What stands for the K groups of images in a sequence.

        Args:
            index (Tensor): Codes, B×K int64.
            group (Tensor): Group of each raster position, B×L int64.

        Returns:
            Tensor: B×K int64: the codes, or codes and first places.
        """
        if not self.place_bits:
            return index
        first = first_occurrence(group, index.shape[1])
        return join_places(index, first, self.place_bits)

    def codes(self, token: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes of tokens, and their first places where they have any, B×K each."""
        if not self.place_bits:
            return token, None
        return split_places(token, self.place_bits)

    def beginnings(self, batch: int, known: KnownCodes | None) -> Beginnings | None:
        """Where the groups of a batch may begin: in an edit within its region."""
        if not self.place_bits:
            return None
        if known is None:
            length = self.tokenizer.length
            free = torch.ones(batch, length, dtype=torch.bool, device=self.device)
        else:
            free = known.free
        return Beginnings(self.place_bits, free)

    def drop_classes(self, labels: Tensor) -> Tensor:
        """Replace a random share of the classes by none, in training."""
        if not self.training or self.class_dropout == 0:
            return labels
        dropped = torch.rand(labels.shape, device=labels.device) < self.class_dropout
        return labels.masked_fill(dropped, self.num_classes)

    def guided_labels(self, labels: Tensor, rule: SamplingRule) -> Tensor:
        """Labels of all sequences: with guidance twice as many, the second without.

        Raises:
            ValueError: If there is no class to contrast with.
        """
        if not rule.guided:
            return labels
        if self.class_dropout == 0:
            raise ValueError(
                f'guidance={rule.guidance} needs a null class, which a generator with '
                'class_dropout=0 does not learn; train with class_dropout=0.1 or use '
                'guidance=1.'
            )
        return torch.cat([labels, torch.full_like(labels, self.num_classes)])

    def sampling_rule(
        self, restrict: int | None = None, **options: Any
    ) -> SamplingRule:
        """Checked options of sampling.

        Raises:
            ValueError: If one is not known or out of range.
        """
        check_sampling(len(self.head.split), **options)
        return SamplingRule(**options, restrict=restrict)

    def code_losses(self, logits: list[Tensor], index: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of each part of each code.

        Args:
            logits (list[Tensor]): For each part B×n×2^bits.
            index (Tensor): B×n int64.

        Returns:
            dict[str, Tensor]: ``loss_pre`` and ``loss_post`` (or ``loss_part<i>`` where
            a code does not have two), before them ``loss_place`` where first places
            are drawn, and the share of the tokens all of whose parts were likeliest.
        """
        losses: dict[str, Tensor] = {}
        right = torch.ones_like(index, dtype=torch.bool)
        parts = split_index(index, self.head.split)
        placed = bool(self.place_bits)
        names = [f'part{i}' for i in range(len(parts) - placed)]
        names = ['pre', 'post'] if len(names) == 2 else names
        names = ['place'] * placed + names
        for name, logit, part in zip(names, logits, parts, strict=True):
            losses[f'loss_{name}'] = F.cross_entropy(
                logit.flatten(0, 1).float(),
                part.flatten(),
                label_smoothing=self.label_smoothing,
            )
            right = right & (logit.detach().argmax(dim=-1) == part)
        losses['code_acc'] = right.float().mean()
        return losses
