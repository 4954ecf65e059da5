"""The benchmarks, one module each.

Belongs here: modules that define a `BENCHMARK`, and finding them. A new benchmark is a new module; nothing here names
any. Benchmarks do not import one another; a large one may have its parts in further modules (`ytvos_annotations`).
"""

import importlib
import pkgutil

from pervl_assets.benchmarks.benchmark import Benchmark


def find_benchmarks() -> tuple[Benchmark, ...]:
    """Return the `BENCHMARK` of every module of this package that has one, in order of the modules' names."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found = (getattr(module, "BENCHMARK", None) for module in modules)
    return tuple(benchmark for benchmark in found if isinstance(benchmark, Benchmark))
