"""What the one-command trainings share: quickstart.py of digits, emoji.py of colour.

A plan names the configs; the steps are here: the start, the tokenizer's training,
measurement and probes. Its folder is that of one_command_folder.py, the time left of
one_command_clock.py; its generators stand in one_command_generator.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import one_command_folder as folder
from one_command_clock import Clock, hours

import mergevq_mm  # noqa: F401  first: makes the installed stack usable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from mmengine.config import Config
    from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Plan:
    """What one command trains.

    Attributes:
        name (str): Of the command: in front of its lines, and in its folders.
        images (str): What the images are, for sentences.
        tokenizer (str): Config of stage 1.
        generators (Mapping[str, str]): Way to draw to its config.
        classifier (str): Config of the judge.
        judge (float): Per cent of the held-out images that the judge must know.
        pictures (Sequence[str]): Patterns of those in the run's folder.
        few (Mapping[str, int]): Split to n, where a short run takes each n-th image.
            Folders are sorted by class: so it has all classes.
        few_everywhere (bool): Whether a short run's judge and codes are of few images,
            too.
        flip (bool): Whether generators also learn the mirrored images.
        minutes (Mapping[str, float]): Phase to what it takes on two cores. Empty: no
            time is told.
    """

    name: str
    images: str
    tokenizer: str
    generators: Mapping[str, str]
    classifier: str
    judge: float
    pictures: Sequence[str]
    few: Mapping[str, int]
    few_everywhere: bool = False
    flip: bool = False
    minutes: Mapping[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """Name of the file that its work directories hold."""
        return f'.{self.name}'


# -------------------------------------------------------------------------- the start


def seed(text: str) -> int:
    """A seed that numpy takes, for argparse."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f'{value} is no whole number of 0 to 2^32 - 1')
    return value


@contextmanager
def refusals(*kinds: type[Exception]) -> Iterator[None]:
    """End in a sentence, not in a traceback, where what somebody gave is refused.

    Args:
        *kinds (type[Exception]): What else is theirs, beside what a training refuses.

    Yields:
        None: Nothing.

    Raises:
        SystemExit: With the sentence.
    """
    from mergevq_mm.engine.first_step import TrainingRefused
    from mergevq_mm.utils.checkpoint_format import UnusableCheckpoint

    try:
        yield
    except (TrainingRefused, UnusableCheckpoint, *kinds) as error:
        sys.exit(f'error: {error}')


def start(
    plan: Plan, args: argparse.Namespace, prepare: Callable[[], str | None]
) -> Clock:
    """Prepare the data of a run, then its folder.

    In this order: what an earlier run left goes when nothing can be refused any more.

    Args:
        plan (Plan): Of the run.
        args (Namespace): Its command line.
        prepare (Callable): Makes the data, and returns what tells them from others.

    Returns:
        Clock: Of its phases.

    Raises:
        SystemExit: If the folder is refused.
    """
    work_dir = Path(args.work_dir)
    with refusals(OSError, ValueError):
        folder.check(work_dir, plan)
    if plan.minutes:
        total = hours(sum(plan.minutes.values()))
        print(f'[{plan.name}] estimated: {total} on two cores; --resume goes on later.')
    clock = Clock(plan)
    with clock.phase('data'):
        data = prepare()
    begun = {
        'data': data,
        'tokenizer': plan.tokenizer,
        'seed': args.seed,
        'short': args.short,
    }
    with refusals(OSError, ValueError):
        folder.begin(work_dir, plan, begun, args.resume)
    clock.keep(work_dir)
    return clock


def run_tool(*arguments: object) -> None:
    """Run one of the project's own command-line tools; where it fails, end as it did.

    Raises:
        SystemExit: If the tool fails: it has said why.
    """
    ended = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT)
    if ended.returncode:
        sys.exit(ended.returncode)


# -------------------------------------------------------------------------- tokenizer


def read_config(config: str | Path, *flags: str) -> Config:
    """A config as tools/train.py makes it of a command line."""
    from train import merge_args, parse_args

    from mergevq_mm.utils.config import load_config

    args = parse_args([str(config), *flags])
    return merge_args(load_config(args.config), args)


def load_config(
    plan: Plan, work_dir: Path, seed: int, short: bool = False, resume: bool = False
) -> Config:
    """The config of the tokenizer.

    Args:
        plan (Plan): Of the run.
        work_dir (Path): Of the run.
        seed (int): Of weights and order.
        short (bool): Whether two epochs on few images will do. Defaults to False.
        resume (bool): Whether to go on with a run that was stopped. Defaults to False.

    Returns:
        Config: Ready to train and to test.
    """
    flags = ['--work-dir', str(work_dir), *['--resume'] * resume]
    if short:
        flags += ['--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    cfg = read_config(ROOT / plan.tokenizer, *flags)
    cfg.randomness.seed = seed
    if short:
        take_few(cfg, plan)
        cfg.model.discriminator_start = 0
    return cfg


def each_nth(dataset: dict, n: int) -> list[int]:
    """Places of each n-th image of a data set."""
    from mergevq_mm.registry import DATASETS

    return list(range(0, len(DATASETS.build(dict(dataset, indices=None))), n))


def take_few(cfg: Config, plan: Plan) -> None:
    """Let a config see the images of a short run alone."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        n = plan.few['train' if loader is cfg.train_dataloader else 'val']
        loader.dataset.indices = each_nth(loader.dataset, n)


def training_few(plan: Plan) -> list[int]:
    """Places of the training images that a short run takes."""
    cfg = read_config(ROOT / plan.tokenizer)
    return each_nth(cfg.train_dataloader.dataset, plan.few['train'])


def train(cfg: Config) -> str:
    """Train, or go on with it, and return the last checkpoint.

    There is no validation at the end: the evaluation takes its place.
    """
    from mmengine.runner import find_latest_checkpoint

    from mergevq_mm.engine.quiet_runner import QuietRunner

    cfg = cfg.copy()
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs + 1
    QuietRunner.from_cfg(cfg).train()
    return find_latest_checkpoint(cfg.work_dir)


def for_test(cfg: Config, checkpoint: str, name: str) -> Config:
    """The config that tests a checkpoint as a user would load it.

    Args:
        cfg (Config): Of the training.
        checkpoint (str): Its weights.
        name (str): Of the experiment, for logs of its own.

    Returns:
        Config: A copy.
    """
    cfg = cfg.copy()
    cfg.resume, cfg.load_from = False, checkpoint
    # The checkpoint's weights are the averaged ones already.
    cfg.custom_hooks = [h for h in cfg.custom_hooks if 'EMA' not in h['type']]
    cfg.experiment_name = name
    return cfg


def evaluate(cfg: Config, plan: Plan) -> tuple[dict[str, float], nn.Module]:
    """Load the last checkpoint of the tokenizer and measure it.

    Returns:
        tuple[dict, nn.Module]: Metrics of the held-out images, and the model.
    """
    from mmengine.runner import find_latest_checkpoint

    from mergevq_mm.engine.quiet_runner import QuietRunner

    checkpoint = find_latest_checkpoint(cfg.work_dir)
    runner = QuietRunner.from_cfg(for_test(cfg, checkpoint, f'{plan.name}_test'))
    return runner.test(), runner.model


def measured_keeps(metrics: Mapping[str, float]) -> list[int]:
    """The numbers of tokens that metrics are of, ascending."""
    found = (re.match(r'recon/K(\d+)/', name) for name in metrics)
    return sorted({int(match[1]) for match in found if match})


def by_keep(
    metrics: Mapping[str, float], prefix: str, keeps: Sequence[int]
) -> dict[str, dict[str, float]]:
    """The metrics of a prefix, sorted by K: 'K16' to name to value."""
    return {
        f'K{keep}': {
            name.split('/', 2)[2]: round(float(value), 4)
            for name, value in metrics.items()
            if name.startswith(f'{prefix}/K{keep}/')
        }
        for keep in keeps
    }


# ------------------------------------------------------------------------------ probes


def token_features(encoder: nn.Module, x: Tensor) -> Tensor:
    """Class token beside the mean of the tokens, merging off, B×2D."""
    import torch

    merged = encoder.encode(x)
    return torch.cat([merged.cls, merged.tokens.mean(dim=1)], dim=1)


def random_encoder(cfg: Config, device: torch.device) -> nn.Module:
    """The encoder of a config as its training starts, on a device."""
    import torch

    from mergevq_mm.registry import MODELS

    torch.manual_seed(0)
    encoder = MODELS.build(cfg.model.backbone)
    if cfg.model.backbone.get('init_cfg'):
        encoder.init_weights()
    return encoder.to(device).eval()


def seen_and_held_out(cfg: Config) -> list[dict]:
    """Configs of the training and the validation images, both as a test sees them."""
    held_out = cfg.val_dataloader.dataset
    indices = cfg.train_dataloader.dataset.get('indices')
    return [{**held_out, 'split': 'train', 'indices': indices}, held_out]


def extract(
    encoders: Mapping[str, Callable[[Tensor], Tensor]],
    datasets: Sequence[dict],
    preprocessor: nn.Module,
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Frozen features of images to learn from and of images to test.

    Args:
        encoders (Mapping[str, Callable]): Name to images B×3×H×W to features B×D.
        datasets (Sequence[dict]): Configs of the two sets.
        preprocessor (nn.Module): Of the images.

    Returns:
        dict[str, list[tuple]]: Name to features N×D and labels N of each set.
    """
    from mergevq_mm.evaluation.probe import extract_features
    from mergevq_mm.registry import DATASETS

    folders = [DATASETS.build(config) for config in datasets]
    return {
        name: [extract_features(encoder, d, preprocessor) for d in folders]
        for name, encoder in encoders.items()
    }


def probe(
    features: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    labels: Sequence[np.ndarray] | None = None,
    penalties: Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    max_iter: int = 1000,
) -> dict[str, float]:
    """Linear probes of frozen features.

    Args:
        features (Mapping[str, Sequence]): What :func:`extract` returns.
        labels (Sequence[np.ndarray], optional): Others of the two sets. Defaults to
            None, those of the features.
        penalties (Sequence[float]): To choose from, scikit-learn's C.
        max_iter (int): Limit of iterations. Defaults to 1000.

    Returns:
        dict[str, float]: Accuracy on the images of the test, in per cent.
    """
    from mergevq_mm.evaluation.probe import linear_probe

    accuracy = {}
    for name, ((train_x, train_y), (test_x, test_y)) in features.items():
        known, asked = (train_y, test_y) if labels is None else labels
        score = linear_probe(
            train_x, known, test_x, asked, list(penalties), max_iter=max_iter
        )
        accuracy[name] = round(100 * score, 2)
    return accuracy


# ----------------------------------------------------------------------------- the end


def below(bars: Sequence[tuple[str, float, float]]) -> list[str]:
    """A sentence for each number (name, value, bar) that misses its bar."""
    return [
        f'{name} is {value:.2f}, not at least {bar:.2f}.'
        for name, value, bar in bars
        if value < bar
    ]
