"""The benchmarks: one module with a `BENCHMARK` each, found by name. A new benchmark is a new module.

Benchmarks do not import one another. A large one can have further modules, e.g. `ytvos_annotations`.
"""

import importlib
import pkgutil

from pervl_assets.benchmarks.benchmark import Benchmark, Retrieval, TreeAsset


def find_benchmarks() -> tuple[Benchmark, ...]:
    """Return the `BENCHMARK` of every module of this package that has one, sorted by module name."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found = (getattr(module, "BENCHMARK", None) for module in modules)
    return tuple(benchmark for benchmark in found if isinstance(benchmark, Benchmark))


def find_searched() -> list[tuple[Benchmark, Retrieval, TreeAsset]]:
    """Return every benchmark whose images are searched by captions, with how, and the tree of these images."""
    return [
        (benchmark, benchmark.retrieval, {tree.name: tree for tree in benchmark.trees}[benchmark.retrieval.tree])
        for benchmark in find_benchmarks()
        if benchmark.retrieval
    ]
