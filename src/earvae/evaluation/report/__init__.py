"""The listening report: one folder of static pages that opens from disk, without a server.

``build`` reads what ``earvae evaluate`` wrote and needs jinja2 and matplotlib (the eval extra).
"""

from earvae.evaluation.report.pages import Presentation, build

__all__ = ["Presentation", "build"]
