"""The PerVL benchmark as Dagster assets. See `docs/architecture.md` for the rooms of this package."""

__version__ = "0.1.0"
