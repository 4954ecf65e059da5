"""Tests with real servers, on this machine only: `make test-scale`. Each module skips what this machine cannot start.

Every module says `pytestmark = pytest.mark.scale`, by which `make test` leaves it out.
"""
