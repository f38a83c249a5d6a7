"""Text to ids and back: vocabulary, byte-pair encoding, ChatML, ReAct and streaming; imports no torch."""
