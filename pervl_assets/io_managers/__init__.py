"""One IO manager for each kind of value: where it is stored, how it is written, read, verified and described.

A new kind is a new module with a subclass of `PervlIOManager`; it is found automatically.
"""

import importlib
import pkgutil

from pervl_assets.io_managers.base import PervlIOManager


def find_io_managers() -> dict[str, type[PervlIOManager]]:
    """Return the IO managers of all modules of this package, by their resource keys, e.g. `tables`."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {value.key: value for value in found if issubclass(value, PervlIOManager) and value is not PervlIOManager}
