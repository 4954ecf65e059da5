"""Tools for testing assets: fixtures of the demo data, corrupted archives and images, a fake CLIP, real runs.

`docs/testing.md` shows how to use them. Only `fixtures` imports pytest, which is no dependency of the package.
"""
