"""`python -m qwartet` is the command `qwartet`."""

from qwartet.cli.main import main

main()
