"""Tables and figures of the papers: the runs they need, our numbers beside the paper's, claims, notebooks.

May import runs, reports and all layers below them.
"""
