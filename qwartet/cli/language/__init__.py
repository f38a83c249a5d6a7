"""The command line in Chinese: the sources keep plain English, a catalogue is applied where text is printed."""
