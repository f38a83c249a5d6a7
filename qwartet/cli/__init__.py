"""The command line: one file per verb. It parses arguments and prints results; the floors below do the work."""
