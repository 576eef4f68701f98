"""Reports: result tables, curves, health, cost, settings, origin and model cards, as Markdown and HTML.

May import runs and all layers below it; reads run folders and never trains.
"""
