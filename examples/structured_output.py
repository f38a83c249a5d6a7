"""Get answers that match a JSON schema, a regular expression or a choice: tokens that would break it are excluded.

The form is guaranteed; the content is up to the model, and the bundled toy fills JSON with nonsense.
"""

import json
import sys

from qwartet import LLM, Structure

llm = LLM(*sys.argv[1:2])

schema = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
answer, _ = llm.chat("Tell me about a person, as JSON.", structure=Structure(json_schema=schema), temperature=0)
print(json.loads(answer))

answer, _ = llm.chat("What is 23 + 45?", structure=Structure(regex=r"\d+ \+ \d+ = \d+"), temperature=0)
print(answer)

answer, _ = llm.chat("What is 3 + 4?", structure=Structure(choice=("6", "7", "8")), temperature=0)
print(answer)
