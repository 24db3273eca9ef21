#!/usr/bin/env python
"""In the place of the interpreter that `gpu_check.sh` calls: its commands on small shapes, no card.

The emulator computes, PyCUDA above the driver's stand-in is called for every launch, and clocks,
graphs and the profiler are stand-ins, too.
"""

import runpy
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[2] / 'tools'


class Event:
    """`torch.cuda.Event`."""

    def __init__(self, enable_timing):
        pass

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


def install(tool):
    """A card for ``tool``, and less for it to do."""
    import torch
    import torch.profiler
    from captures import Graph

    from driver_stub.seam import Both, on_stream, use_launcher

    use_launcher(Both())
    torch.cuda.Event = Event
    torch.backends.cudnn.version = lambda: None
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *_: None
    torch.cuda.memory_allocated = torch.cuda.max_memory_allocated = lambda *_: 0
    torch.cuda.reset_peak_memory_stats = lambda *_: None
    real = torch.profiler.profile
    torch.profiler.profile = lambda activities: real(activities=activities[:1])

    import benchmarks.gpu as gpu

    from mmint.backends.cuda import compiler

    def captured(function):
        with on_stream(capturing=True), Graph() as graph:
            function()
        return graph.replay

    compiler.compile_all = lambda *_: None  # it takes minutes, and has its own tests

    def alternate(functions, rounds, queued=False):
        return {name: gpu._time(function, 1) for name, function in functions.items()}

    gpu.captured, gpu.alternate = captured, alternate
    gpu.resnet50 = lambda model, *_: [gpu.Convolution(model, 2, 5, 6, 6, 7, 3)]
    gpu.GEMM_SIZES = 8, 16, 24, 32
    if tool == 'benchmark.py':
        import benchmarks.train as train
        from synthetic_step import Step

        torch.set_num_threads(1)
        torch.set_num_threads = lambda _: None
        train.FLOATS = ('float32',)  # stock AMP wants a card
        train.Step = lambda cfg, batch, size, device: Step(cfg, 2, (32, 32), device)


def main(arguments):
    """The interpreter's command line."""
    while arguments[0] in ('-I', '-S'):
        arguments.pop(0)
    sys.executable = __file__
    if arguments[0] == '-m':  # pytest, whose tests for a card are skipped
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
        return
    tool = Path(arguments[0])
    sys.argv = arguments
    sys.path[0] = str(TOOLS)
    if tool.name != 'gpu_report.py':
        install(tool.name)
    if tool.name == 'gpu_parts.py':
        import gpu_parts

        gpu_parts.CHANNELS, gpu_parts.SIDE = 4, 8
        gpu_parts.main(*arguments[1:])
    else:
        runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1:])
