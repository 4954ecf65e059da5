"""The retrieval evaluation: queries, few-shot draws, ranking, metrics and published numbers, under a named protocol."""
