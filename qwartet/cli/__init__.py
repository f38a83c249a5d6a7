"""The command line: one file a verb. Arguments in, lines out; the work is done on the floors below."""
