"""Workarounds for the installed stack, applied once by ``import mergevq_mm``.

OpenMMLab's packages are older than today's torch and numpy. Five small measures make
them run together; each one looks first whether it is needed, and does nothing where
it is not:

1. :func:`declare_torchvision_ops`: torchvision beside a CPU build of torch.
2. :func:`stub_mmcv_ext`: mmcv-lite, which has no compiled operators.
3. :func:`restore_numpy_bool8`: numpy 2, for mmagic.
4. :func:`install_checkpoint_loaders`: checkpoints under ``weights_only=True``.
5. :func:`init_dist_without_cuda`: distributed runs on CPUs (gloo).

They must run before anything imports torchvision, ``mmpretrain.models`` or mmagic.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import numpy as np
import torch

_APPLIED = False
# Schemas live as long as their Library, so that this reference is never dropped.
_TORCHVISION_LIBRARY: torch.library.Library | None = None


def apply() -> None:
    """Apply all workarounds, once a process."""
    global _APPLIED
    if _APPLIED:
        return
    _APPLIED = True
    declare_torchvision_ops()
    stub_mmcv_ext()
    restore_numpy_bool8()
    install_checkpoint_loaders()
    init_dist_without_cuda()


def _package_files(package: str, pattern: str) -> list[Path] | None:
    """List files of an installed package without importing it.

    Args:
        package (str): Name of a top-level package.
        pattern (str): Glob pattern in the package's folder.

    Returns:
        list[Path] | None: The files; None where the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folders = spec.submodule_search_locations
    return [path for folder in folders for path in Path(folder).glob(pattern)]


def declare_torchvision_ops() -> bool:
    """Declare the operators that ``import torchvision`` expects to find.

    A torchvision wheel built for CUDA cannot load its compiled part beside a CPU
    build of torch, and dies with "operator torchvision::nms does not exist". With
    the schemas declared, transforms, models and timm work; calling ``nms`` itself
    still fails, as it has no implementation.

    Returns:
        bool: Whether the schemas had to be declared.
    """
    global _TORCHVISION_LIBRARY
    compiled = _package_files('torchvision', '_C.*')
    if 'torchvision' in sys.modules or compiled is None:
        return False
    for path in compiled:
        try:
            torch.ops.load_library(str(path))
            return False  # It loads: torchvision matches torch.
        except (ImportError, OSError):
            continue
    _TORCHVISION_LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        _TORCHVISION_LIBRARY.define(
            f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        )
    return True


class _MissingOps(ModuleType):
    """Stand-in for ``mmcv._ext`` whose operators raise when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a function that explains what is missing."""
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                f'The operator mmcv.ops.{name} is not compiled in mmcv-lite: '
                'install mmcv==2.1.0 with its operators in place of mmcv-lite.'
            )

        missing.__name__ = name
        return missing


def stub_mmcv_ext() -> bool:
    """Give mmcv-lite an ``mmcv._ext`` that can be imported.

    mmagic.models, mmdet and mmseg import the compiled operators, also where they
    use none. The stub needs a ``ModuleSpec``, or ``Runner.wrap_model`` fails.

    Returns:
        bool: Whether the stub was installed.
    """
    compiled = _package_files('mmcv', '_ext.*')
    if compiled is None or compiled or 'mmcv._ext' in sys.modules:
        return False
    stub = _MissingOps('mmcv._ext')
    stub.__spec__ = ModuleSpec('mmcv._ext', loader=None)
    sys.modules['mmcv._ext'] = stub
    return True


def restore_numpy_bool8() -> bool:
    """Bring ``numpy.bool8`` back on numpy 2, where mmagic still names it.

    Returns:
        bool: Whether it was missing.
    """
    if int(np.__version__.split('.')[0]) < 2 or 'bool8' in vars(np):
        return False
    np.bool8 = np.bool_
    return True


def _after_import(name: str, action: Callable[[], None]) -> None:
    """Run an action once a module has been imported, at once if it already is.

    ``mmengine.runner`` takes as long to import as torch, so that
    ``import mergevq_mm`` must not import it only to change it.

    Args:
        name (str): Full name of the module.
        action (Callable): What to do after the module's code has run.
    """
    if name in sys.modules:
        action()
        return

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None:
                return spec
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                action()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())


def install_checkpoint_loaders() -> None:
    """Let stock mmengine load and resume through :mod:`.checkpoint_file`.

    torch 2.6 and later refuse mmengine's own checkpoints by default, so that
    resuming, ``load_from``, ``Pretrained`` and ``test.py`` fail with a traceback;
    earlier ones run whatever code a file holds. With our loader a checkpoint of
    plain types loads everywhere, another one stops with one sentence, and
    ``resume=True`` passes over a damaged newest checkpoint.
    """

    def install() -> None:
        from . import checkpoint_file

        loader = sys.modules['mmengine.runner.checkpoint'].CheckpointLoader
        loader.register_scheme('', checkpoint_file.load_from_local, force=True)
        loader.register_scheme(
            ('http://', 'https://'), checkpoint_file.load_from_http, force=True
        )
        for name in ('', '.checkpoint', '.runner'):
            module = sys.modules[f'mmengine.runner{name}']
            module.find_latest_checkpoint = checkpoint_file.find_latest_checkpoint

    _after_import('mmengine.runner.runner', install)


def init_dist_without_cuda() -> bool:
    """Initialise gloo where mmengine's launchers would call CUDA.

    Covers ``launcher='pytorch'`` and ``'slurm'``. DDP also wants ``device_ids=None``
    on CPUs: see :func:`mergevq_mm.utils.config.adapt_to_device`.

    Returns:
        bool: Whether the launchers were replaced.
    """
    if torch.cuda.is_available():
        return False
    from mmengine.device import is_mlu_available, is_musa_available, is_npu_available
    from mmengine.dist import utils

    if is_mlu_available() or is_musa_available() or is_npu_available():
        return False

    def init_pytorch(backend: str, init_backend: str = 'torch', **kwargs: Any) -> None:
        torch.distributed.init_process_group(backend='gloo', **kwargs)

    def init_slurm(
        backend: str,
        port: int | None = None,
        init_backend: str = 'torch',
        **kwargs: Any,
    ) -> None:
        environ = os.environ
        environ['RANK'] = environ['SLURM_PROCID']
        environ['WORLD_SIZE'] = environ['SLURM_NTASKS']
        environ['LOCAL_RANK'] = environ.get('SLURM_LOCALID', '0')
        if port is not None:
            environ['MASTER_PORT'] = str(port)
        environ.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in environ:
            hosts = subprocess.check_output(
                ['scontrol', 'show', 'hostname', environ['SLURM_NODELIST']], text=True
            )
            environ['MASTER_ADDR'] = hosts.split()[0]
        init_pytorch(backend, **kwargs)

    utils._init_dist_pytorch = init_pytorch
    utils._init_dist_slurm = init_slurm
    return True
