"""Dagster's side of the project: assets, checks, jobs, schedules, sensors, resources."""
