"""Folder trees: plans, rendering, ledgers, staging, views and contact sheets. Knows no particular benchmark."""
