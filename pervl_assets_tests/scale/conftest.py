"""Fixtures of the tests with real servers."""

from pervl_assets_tests.scale.object_server import bucket, object_server

__all__ = ["bucket", "object_server"]
