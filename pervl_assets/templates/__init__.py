"""A small benchmark, complete: `pervl new benchmark` copies these modules, with its name in place of NAME and TITLE."""
