"""The former location of `qwartet.checkpoint.shards`, for scripts that import it from here."""

import sys

from qwartet.checkpoint import shards

sys.modules[__name__] = shards
