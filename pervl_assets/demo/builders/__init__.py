"""Builders of the raw inputs: one module for each source, found by being here.

A module here has a `BUILDER`: the raw inputs it draws and, for a benchmark, the annotations it writes. A further
benchmark is one module more and no edit elsewhere.
"""
