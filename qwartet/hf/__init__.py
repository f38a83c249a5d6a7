"""First-generation Qwen in stock transformers: importing this registers configuration, tokenizer and model.

    import qwartet.hf
    from transformers import AutoModelForCausalLM, AutoTokenizer

and from then on transformers loads published directories, BF16, Int4 and Int8, with Qwartet's network and kernels.
"""

import qwartet.hf.requirement  # noqa: F401  # isort: skip  first: says what to install
from qwartet.hf.config import QWenConfig as QWenConfig
from qwartet.hf.model import QWenLMHeadModel as QWenLMHeadModel
from qwartet.hf.registration import register
from qwartet.hf.tokenizer import QWenTokenizer as QWenTokenizer

register()
