"""Build hook: compiles the native CPU library; where there is no C++ compiler the package installs without it."""

from __future__ import annotations

import platform
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeLibraryHook(BuildHookInterface):
    """Puts the libraries into qwartet/kernels/cpu/lib, from where the wheel (or an editable install) takes them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        # By its path: the package itself cannot be imported before what it depends on is installed.
        spec = spec_from_file_location("native_build", Path(self.root, "qwartet", "kernels", "cpu", "build.py"))
        assert spec is not None and spec.loader is not None
        native_build = module_from_spec(spec)
        spec.loader.exec_module(native_build)
        try:
            native_build.build()
        except RuntimeError as error:
            self.app.display_warning(f"Qwartet installs without its native CPU kernels: {error}")
            return
        build_data["pure_python"] = False
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag if platform.system() == 'Linux' else 'any'}"
