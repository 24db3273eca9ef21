"""Kernels take their arguments by name: a wrong one is an error that says which, not a number."""

import pytest
import torch

from mmint.backends import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built')


@pytest.fixture
def kernels():
    return cpu.library.ready()


def arguments(**changed):
    x, passed = torch.tensor([1.0, -2.0]), torch.empty(1, dtype=torch.uint8)
    infinity = 0x7F800000
    given = dict(x=x, out=torch.empty(2), passed=passed, n=2, ceiling=infinity, threads=1)
    return {**given, **changed}


def test_the_module_says_what_each_kernel_takes(kernels):
    assert kernels.arguments['relu'] == ('x', 'out', 'passed', 'n', 'ceiling', 'threads')
    assert kernels.arguments['conv2d'] == kernels.arguments['conv2d_weight_grad']
    assert all(callable(getattr(kernels, name)) for name in kernels.arguments)


def test_arguments_come_in_any_order(kernels):
    given = arguments()
    top = kernels.relu(**dict(reversed(given.items())))
    assert given['out'].tolist() == [1, 0] and top == 0x3F800000


@pytest.mark.parametrize(
    'changed, message',
    [
        ({'x': 5}, "relu takes a tensor or None as 'x', not int"),
        ({'n': torch.tensor([1, 2])}, "relu takes an integer of 64 bits as 'n', not Tensor"),
        ({'n': 2.0}, "relu takes an integer of 64 bits as 'n', not float"),
        ({'n': 2**63}, "relu takes an integer of 64 bits as 'n', not int"),
        ({'wide': 1}, "relu has no argument 'wide'"),
    ],
)
def test_a_wrong_argument_is_named(kernels, changed, message):
    with pytest.raises(TypeError) as error:
        kernels.relu(**arguments(**changed))
    assert str(error.value) == message


def test_a_missing_argument_is_named(kernels):
    given = arguments()
    del given['passed']
    with pytest.raises(TypeError, match="relu was not given its argument 'passed'"):
        kernels.relu(**given)
    with pytest.raises(TypeError, match='relu takes its arguments by name'):
        kernels.relu(given['x'])
