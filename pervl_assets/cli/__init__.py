"""What `pervl` does behind its options: run the graph, verify what is on disk, tell what state it is in, print it.

Belongs here: everything of the command line but the options. Does not belong here: what an asset does.
"""
