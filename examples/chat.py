"""Hold a conversation: pass the history along with each question, and set the tone with a system prompt."""

import sys

from qwartet import LLM

llm = LLM(*sys.argv[1:2])  # a checkpoint directory or hub id; without an argument, the bundled model

answer, history = llm.chat("My name is Rosa.", temperature=0)
print(answer)
answer, history = llm.chat("What is my name?", history=history, temperature=0)
print(answer)

answer, _ = llm.chat("你好呀", system="请用二次元可爱语气和我说话", temperature=0)
print(answer)
