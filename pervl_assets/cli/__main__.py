"""`python -m pervl_assets.cli`."""

from pervl_assets.cli.commands import main

main()
