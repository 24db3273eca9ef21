"""What a backend is, and how its calls are watched."""

import inspect

import pytest
import torch

from mmint import backends
from mmint.backends import cpu, cuda, reference, watched
from mmint.backends.contract import OPERATIONS, Backend

CPU = torch.device('cpu')
ABOUT_THE_KERNELS = {'available', 'level', 'levels', 'use_level'}


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'reference')


@pytest.mark.parametrize('backend', [reference, cpu, cuda], ids=lambda b: b.name)
def test_a_backend_has_the_operations_of_the_contract_and_no_others(backend):
    functions = {name for name in backend.__all__ if callable(getattr(backend, name))}
    besides = {cpu: ABOUT_THE_KERNELS, cuda: {'quantize_all'}}.get(backend, set())
    assert functions - OPERATIONS == besides
    assert OPERATIONS <= functions


@pytest.mark.parametrize('backend', [reference, cpu, cuda], ids=lambda b: b.name)
def test_arguments_have_the_names_and_defaults_of_the_contract(backend):
    """The type checker compares types; audit and callers rely on names too."""
    for name in OPERATIONS:
        _, *expected = inspect.signature(getattr(Backend, name)).parameters.values()
        actual = inspect.signature(getattr(backend, name)).parameters.values()
        named = [[(p.name, p.default) for p in parameters] for parameters in (expected, actual)]
        assert named[0] == named[1], name


def test_who_watches_sees_every_call_and_stands_in_for_it():
    seen = []

    def observer(name, operation, args, kwargs):
        seen.append((name, operation, len(args), list(kwargs)))
        return operation(*args, **kwargs)

    x = torch.randn(5)
    with watched(observer):
        backend = backends.backend_for(CPU)
        mapped = backend.quantize(x, 8, random=None)
        assert backend.name == 'reference'
        assert backend.quantize_all is None  # which would hide them
    assert seen == [('quantize', reference.quantize, 2, ['random'])]
    assert torch.equal(mapped.mantissa, reference.quantize(x, 8, None).mantissa)


def test_several_watch_at_a_time():
    seen = []

    def observer(own):
        def call(name, operation, args, kwargs):
            seen.append(own)
            return operation(*args, **kwargs)

        return call

    with watched(observer('outer')), watched(observer('inner')):
        backends.backend_for(CPU).relu(torch.randn(3), False)
    assert sorted(seen) == ['inner', 'outer']


def test_who_does_not_watch_meets_the_backend_itself():
    with pytest.raises(KeyError), watched(lambda *call: None):
        assert backends.backend_for(CPU) is not reference
        raise KeyError
    assert backends.backend_for(CPU) is reference
