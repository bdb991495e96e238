"""Reports: one self-contained HTML page and its figures, from runs in a store."""

from mer_zoo.report.write import write_report

__all__ = ["write_report"]
