"""Images that cannot be read are listed at the end of an epoch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.utils.data import ConcatDataset

from mergevq_mm.engine.hooks import DamagedFilesHook


class Data:
    def __init__(self, *bad: str) -> None:
        self.bad = list(bad)

    def __len__(self) -> int:
        return 1

    def bad_files(self) -> list[str]:
        return self.bad


def runner(work_dir: Path, dataset: Any) -> SimpleNamespace:
    return SimpleNamespace(
        work_dir=str(work_dir), train_dataloader=SimpleNamespace(dataset=dataset)
    )


def test_a_list_that_grows(tmp_path: Path) -> None:
    first, second = Data(), Data('b/größe.png')
    run = runner(
        tmp_path, SimpleNamespace(dataset=ConcatDataset([first, second, [1, 2]]))
    )
    hook, path = DamagedFilesHook(), tmp_path / 'damaged_files.txt'
    hook.after_train_epoch(run)
    assert path.read_text() == 'b/größe.png\n'
    path.unlink()
    hook.after_train_epoch(run)
    assert not path.exists()  # nothing new
    first.bad.append('a/1.png')
    hook.after_train_epoch(run)
    assert path.read_text() == 'a/1.png\nb/größe.png\n'


def test_nothing_to_list(tmp_path: Path) -> None:
    hook = DamagedFilesHook()
    hook.after_train_epoch(runner(tmp_path, Data()))
    hook.after_train_epoch(runner(tmp_path, [1, 2, 3]))
    assert not list(tmp_path.iterdir())
