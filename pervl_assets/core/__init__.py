"""What every room uses: errors, files, tables, pixels, worker processes, the vocabulary of checks."""
