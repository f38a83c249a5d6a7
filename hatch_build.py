"""Build hook: compiles the native CPU library; without a C++ compiler the package installs without it.

QWARTET_PURE_WHEEL=1 leaves it out: this wheel is for all other processors, which use torch's own operations.
"""

from __future__ import annotations

import os
import platform
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = "qwartet/kernels/cpu/lib/*.so"


class NativeLibraryHook(BuildHookInterface):
    """Puts the libraries into qwartet/kernels/cpu/lib, from where the wheel (or an editable install) takes them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or os.environ.get("QWARTET_PURE_WHEEL") == "1":
            return
        # By its path: the package itself cannot be imported before its dependencies are installed.
        spec = spec_from_file_location("native_build", Path(self.root, "qwartet", "kernels", "cpu", "build.py"))
        assert spec is not None and spec.loader is not None
        native_build = module_from_spec(spec)
        spec.loader.exec_module(native_build)
        try:
            native_build.build()
        except RuntimeError as error:
            self.app.display_warning(f"Qwartet installs without its native CPU kernels: {error}")
            return
        build_data["artifacts"].append(LIBRARIES)
        build_data["pure_python"] = False
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag if platform.system() == 'Linux' else 'any'}"
