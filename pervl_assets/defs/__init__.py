"""Dagster's side of the project: assets, the GPU op, checks, resources.

Belongs here: thin bodies that call one domain function and attach metadata. Does not belong here: any rule of the
data itself.
"""
