"""Builders of the raw inputs: one module with a `BUILDER` per source.

A `BUILDER` draws raw inputs and, for a benchmark, writes the annotations. A new benchmark is one new module.
"""
