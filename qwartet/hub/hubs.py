"""The hubs that Qwartet knows; the methods of HuggingFace document what each one provides."""

from __future__ import annotations

from qwartet.hub.hugging_face import HuggingFace
from qwartet.hub.modelscope import ModelScope
from qwartet.hub.repository import HubName

Hub = HuggingFace | ModelScope

HUBS: dict[HubName, Hub] = {"hf": HuggingFace(), "modelscope": ModelScope()}
