"""MergeAR in shards: mmengine's FSDP strategy on two CPU processes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, sys
import mergevq_mm
import torch
torch.set_num_threads(1)
from mmengine.runner import FlexibleRunner
import tiny_generator, tiny_mergear
from tiny_mergear import ARCH, CLASSES
from mergevq_mm.utils.distributed import end_process_group

ranks = int(os.environ.get('WORLD_SIZE', 1))
sharded = dict(
    type='FSDPStrategy',
    # `offload_to_cpu`, part of mmengine's 'full', reads freed memory on a CPU.
    model_wrapper=dict(
        type='MMFullyShardedDataParallel', device_id=torch.device('cpu')),
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig')),
    env_kwargs=dict(
        launcher='pytorch', dist_cfg=dict(backend='gloo'), randomness=dict(seed=0)))
single = dict(
    type='SingleDeviceStrategy', env_kwargs=dict(randomness=dict(seed=0)))

runner = FlexibleRunner(
    model=dict(
        type='mergevq_mm.MergeAR', tokenizer=dict(type='mergevq_mm.GridOfCodes'),
        arch=ARCH, num_classes=CLASSES, dropout=0.0, class_dropout=0.0,
        keep=dict(target=4, candidates=[4, 7])),
    work_dir=sys.argv[1],
    strategy=sharded if ranks > 1 else single,
    train_dataloader=dict(
        batch_size=4 // ranks, num_workers=0,
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='mergevq_mm.FakeCodes', keeps=[4, 7], length=30, bits=8)),
    train_cfg=dict(by_epoch=True, max_epochs=4),
    optim_wrapper=dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=4)),
)
runner.train()
held = sum(p.numel() for p in runner.model.parameters())
losses = runner.message_hub.get_scalar('train/loss').data[0].tolist()
print('RESULT', (type(runner.model).__name__, held, losses))
del runner
end_process_group()
"""


def run(folder: Path, ranks: int) -> tuple[list, dict]:
    """What each process printed, and the last checkpoint."""
    paths = [REPO, REPO / 'tests', REPO / 'tests/test_models/test_generators']
    environment = {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join(map(str, paths)),
    }
    folder.mkdir()
    (folder / 'sharded.py').write_text(SCRIPT)
    command = [sys.executable]
    if ranks > 1:
        port = str(20000 + os.getpid() % 20000)
        command += ['-m', 'torch.distributed.run', f'--nproc_per_node={ranks}']
        command += ['--master_port', port]
    command += [str(folder / 'sharded.py'), str(folder / 'run')]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [x for x in done.stdout.splitlines() if x.startswith('RESULT')]
    results = [ast.literal_eval(line.removeprefix('RESULT ')) for line in lines]
    # mmengine's own format, written by this test.
    content = torch.load(folder / 'run' / 'epoch_4.pth', weights_only=False)
    return results, content


def test_two_shards_learn_what_one_process_learns(tmp_path: Path) -> None:
    (alone,), expected = run(tmp_path / 'alone', 1)
    shards, found = run(tmp_path / 'sharded', 2)
    total = sum(value.numel() for value in expected['state_dict'].values())
    assert alone[:2] == ('MergeAR', total)
    for name, held, _ in shards:
        assert name == 'MMFullyShardedDataParallel'
        assert held <= total / 2 + 64  # half of the weights, and padding
    assert expected['state_dict'].keys() == found['state_dict'].keys()
    for name, value in expected['state_dict'].items():
        torch.testing.assert_close(
            found['state_dict'][name], value, rtol=1e-4, atol=1e-5, msg=name
        )
    (first, second), (losses,) = [[x[2] for x in shards], [alone[2]]]
    means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert means[0] > means[-1]
    torch.testing.assert_close(
        torch.tensor(means), torch.tensor(losses), rtol=1e-4, atol=1e-4
    )
