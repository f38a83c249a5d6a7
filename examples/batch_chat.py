"""Answer many questions at once: the engine batches them, and each answer is the same as if it were asked alone."""

import sys

from qwartet import LLM

llm = LLM(*sys.argv[1:2], max_num_seqs=32)

questions = [f"What is {number} + 7?" for number in range(40, 50)]
for question, answer in zip(questions, llm.chat_batch(questions, temperature=0), strict=True):
    print(f"{question:<16} {answer.text}")
