"""Folder trees: plans, rendering, ledgers, staging, views and pictures of them. Knows no particular benchmark."""
