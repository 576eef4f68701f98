"""A run as resumable steps: its plan, its checks before work, its folder, and one file for each kind of step.

May import all that trains and measures; no report, study or viewer.
"""
