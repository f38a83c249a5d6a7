"""Where the value of an option comes from: command line, environment, file of settings; and `qwartet config`."""
