"""What `help` and editors say of the package, and what a misspelt argument gets."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import jedi
import pytest
import tiny_mergevq as tiny

import mergevq_mm
from mergevq_mm import apis
from mergevq_mm.apis.base_inferencer import MergeVQInferencer

KINDS = [name for name in apis.__all__ if name.endswith('Inferencer')]
OWN = {
    'ReconstructionInferencer': {'keep', 'draw', 'fit', 'size', 'predict_source'},
    'EncodingInferencer': {'keep', 'with_map', 'fit', 'size'},
    'DecodingInferencer': set(),
    'FeatureInferencer': {'keep', 'features', 'fit', 'size'},
    'GenerationInferencer': {'num_per_class', 'seed', 'guidance', 'top_k', 'mode'},
    'EditingInferencer': {'mask', 'label', 'num', 'seed', 'temperature'},
}


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('call', ['__call__', 'stream'])
def test_signatures_are_those_of_the_steps(name: str, call: str) -> None:
    kind = getattr(apis, name)
    method = getattr(kind, call)
    parameters = inspect.signature(method).parameters
    assert list(parameters)[:4] == [
        'self',
        'inputs',
        'return_datasamples',
        'batch_size',
    ]
    steps = [getattr(kind, f'{step}_kwargs') for step in (
        'preprocess', 'forward', 'visualize', 'postprocess'
    )]  # fmt: skip
    assert set(parameters) - set(list(parameters)[:4]) == set().union(*steps)
    assert OWN[name] <= set(parameters)
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    if name != 'FeatureInferencer':
        assert 'out_dir (str | PathLike, optional): Folder to write' in method.__doc__
    if 'keep' in OWN[name]:
        default = inspect.signature(kind.forward).parameters['keep'].default
        assert parameters['keep'].default is default
        assert '\n    keep (int | float' in method.__doc__
    assert '\nReturns:\n' in method.__doc__ or '\nYields:\n' in method.__doc__
    assert '**' not in method.__doc__


def test_a_subclass_is_described_anew() -> None:
    class Longer(apis.ReconstructionInferencer):
        postprocess_kwargs = {'out_dir', 'suffix'}

        def postprocess(self, *args: Any, suffix: str = '', **kwargs: Any) -> list:
            return super().postprocess(*args, **kwargs)

    assert inspect.signature(Longer.stream).parameters['suffix'].default == ''
    before = inspect.signature(apis.ReconstructionInferencer.stream)
    assert 'suffix' not in before.parameters
    assert 'kwargs' in inspect.signature(MergeVQInferencer.stream).parameters


def test_did_you_mean() -> None:
    infer = apis.ReconstructionInferencer(tiny.build_model(), device='cpu')
    with pytest.raises(ValueError) as caught:
        infer('cat.png', kep=3)
    assert str(caught.value) == (
        'ReconstructionInferencer takes no argument kep; did you mean keep? Its '
        'arguments are draw, fit, keep, max_positions, out_dir, predict_source, size.'
    )
    with pytest.raises(ValueError, match='no argument xyz; its'):
        infer('cat.png', xyz=3)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('import mergevq_mm\nmergevq_mm.get_', 'get_model'),
        ('import mergevq_mm\nmergevq_mm.Recon', 'ReconstructionInferencer'),
        ('import mergevq_mm\nmergevq_mm.visual', 'visualization'),
        ('from mergevq_mm import apis\napis.Enc', 'EncodingInferencer'),
        ('from mergevq_mm import utils\nutils.load_p', 'load_pretrained'),
        ('from mergevq_mm import FeatureInferencer as F\nF("f").str', 'stream'),
    ],
)
def test_editors_complete_lazy_names(text: str, expected: str) -> None:
    lines = text.splitlines()
    found = jedi.Script(text).complete(len(lines), len(lines[-1]))
    assert expected in [completion.name for completion in found]


def test_what_the_package_lists() -> None:
    for module in (mergevq_mm, apis):
        listed = [name for name in dir(module) if not name.startswith('__')]
        assert set(listed) <= set(module.__all__)
        for name in listed:
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'get_modle'"):
        mergevq_mm.get_modle  # noqa: B018


def test_the_package_stays_light() -> None:
    code = (
        'import sys, mergevq_mm\ndir(mergevq_mm)\n'
        'print([m for m in ("mergevq_mm.apis", "mmpretrain") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr
