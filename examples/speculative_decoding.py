"""Speculative decoding: repeated text is predicted and verified several tokens at a time. The output is the same.

Prompt lookup is on by default and needs no other model. A smaller model with the same vocabulary can draft as well:
LLM("Qwen/Qwen-72B-Chat-Int4", draft_model="Qwen/Qwen-1_8B-Chat-Int4").
"""

import sys

from qwartet import LLM

question = "Say after me: red blue green red blue green"
answers = {}
for speculation in ("off", "prompt-lookup"):
    llm = LLM(*sys.argv[1:2], speculation=speculation)
    steps = []
    llm.engine.observers.append(steps.append)
    answers[speculation], _ = llm.chat(question, temperature=0)
    print(f"{speculation:<14} {len(steps)} steps: {answers[speculation]!r}")

assert answers["off"] == answers["prompt-lookup"]
