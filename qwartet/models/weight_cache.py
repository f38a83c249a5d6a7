"""The former location of `qwartet.checkpoint.weight_cache`, for scripts that import it from here."""

import sys

from qwartet.checkpoint import weight_cache

sys.modules[__name__] = weight_cache
