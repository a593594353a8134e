"""Runs a frozen plan of numbered tasks on one machine or many; what is done is not done again.

In: a plan, each task a call of one function that writes files. Out: whole files, and a sidecar a
task with their sizes and digests. Read `run.py` first, then `plan.py` and `runner.py`.
"""
