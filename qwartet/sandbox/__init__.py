"""Runs code from strangers: behind namespaces and limits, and with verdicts that the code cannot forge."""
