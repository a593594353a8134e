"""Runs the plan of `work.py` as a command: `python -m tests.tasks.driver FOLDER JSON`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from beyond_text.tasks.run import run_plan
from beyond_text.terminal import errors_in_one_line
from tests.tasks.work import plan_of

if __name__ == "__main__":
    # A shell lets what it runs in the background ignore Ctrl-C; here it is sent on purpose.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fields = json.loads(sys.argv[2])
    how = fields.pop("how")
    with errors_in_one_line(RuntimeError):
        run_plan(plan_of(Path(sys.argv[1]), **fields), **how)
