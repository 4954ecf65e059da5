"""The PerVL benchmark as software-defined Dagster assets.

Holds nothing but this docstring and the version: import what you need from the layers
(`core`, `benchmarks`, `inversion`, `demo`, `io_managers`, `defs`) or load `pervl_assets.definitions`.
"""

__version__ = "0.1.0"
