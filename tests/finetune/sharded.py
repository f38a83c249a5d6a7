"""`python -m tests.finetune.sharded ARGUMENTS` under torchrun: `qwartet finetune`, which also prints what is sharded.

Each process prints a line of JSON: its share of the trained parameters, and how many of them are DTensors.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from torch.distributed.tensor import DTensor

from qwartet.cli.main import run
from qwartet.finetune.trainer import QwartetTrainer

original = QwartetTrainer.training_step
shares: list[tuple[int, int, int]] = []


def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
    parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
    own = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    sizes = (sum(p.numel() for p in own), sum(p.numel() for p in parameters))
    shares.append((*sizes, sum(isinstance(p, DTensor) for p in parameters) - len(parameters)))
    return original(self, *args, **kwargs)


if __name__ == "__main__":
    QwartetTrainer.training_step = training_step
    code = run(["finetune", *sys.argv[1:]])
    if shares:
        print(json.dumps({"own": shares[0][0], "all": shares[0][1], "not_sharded": -shares[0][2]}), flush=True)
    sys.exit(code)
