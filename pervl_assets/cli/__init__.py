"""The command line `pervl`: run the graph, verify, show the state, preview a concept."""
