"""Runs the plan of `work.py` as a command: `python -m tests.tasks.driver FOLDER JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from beyond_text.tasks.run import run_plan
from beyond_text.terminal import errors_in_one_line
from tests.tasks.work import plan_of

if __name__ == "__main__":
    fields = json.loads(sys.argv[2])
    how = fields.pop("how")
    with errors_in_one_line(RuntimeError):
        run_plan(plan_of(Path(sys.argv[1]), **fields), **how)
