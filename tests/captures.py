"""CUDA graphs without a card: what a capture would hold is noted, and replayed in the emulator."""

from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmint.backends.cuda.launcher import launcher, packed, use_launcher

aten = torch.ops.aten
WAIT = {aten._local_scalar_dense.default, aten.lift_fresh.default}


class Graph(TorchDispatchMode):
    """`torch.cuda.CUDAGraph` and, as a context, its capture, with no effect but by `replay`.

    Operations of PyTorch are called for what they return, unless they would write; kernels are
    not. All memory is kept, at its place.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.kept, self.inner = [], [], launcher()
        self.kernel, self.architecture = self.inner.kernel, self.inner.architecture
        self.device_type = self.inner.device_type

    def __enter__(self):
        use_launcher(self)
        self.patches = [
            mock.patch.object(torch.cuda, name, lambda: True)
            for name in ('is_initialized', 'is_current_stream_capturing')
        ]
        for patch in self.patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for patch in self.patches:
            patch.stop()
        use_launcher(self.inner)

    def launch(self, kernel, grid, block, shared, arguments, device):
        packed(arguments, device)
        given = kernel, grid, block, shared, arguments, device
        self.calls.append(lambda: self.inner.launch(*given))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function not in WAIT, f'{function} waits for the device, or copies from the host'
        if function._schema.is_mutable:
            self.calls.append(lambda: function(*args, **kwargs))
            return kwargs.get('out', args[0])
        made = function(*args, **kwargs)
        self.kept.append(made)
        given = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
        new = [x.untyped_storage().data_ptr() not in given for x in tensors(made)]
        if any(new) and 'empty' not in function.__name__:

            def again():
                for is_new, x, y in zip(
                    new, tensors(made), tensors(function(*args, **kwargs)), strict=True
                ):
                    if is_new:
                        x.copy_(y)

            self.calls.append(again)
        return made

    @torch.no_grad()
    def replay(self):
        for call in self.calls:
            call()


def tensors(x):
    """Those among arguments or results."""
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, torch.Tensor)]
