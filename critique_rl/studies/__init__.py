"""Tables and figures of the papers: which runs they need, their numbers beside the paper's, claims, notebooks.

May import runs and reports.
"""
