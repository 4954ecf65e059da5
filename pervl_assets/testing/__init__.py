"""Tools for testing assets: the miniature world, hostile archives, a fake CLIP, and runs of the real graph.

Belongs here: what somebody who adds an asset to this project needs in order to test it; the project's own tests use it,
too. `docs/testing.md` shows it. Nothing else of the package imports it, and only `fixtures` imports pytest, which is
no dependency of the package. Does not belong here: tests, and what only one of them needs.
"""
