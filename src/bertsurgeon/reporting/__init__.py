"""Reports for people: the HTML page and the model card, made from the plain data that commands write."""

from bertsurgeon.reporting.card import CARD, ModelSource, model_card, model_source
from bertsurgeon.reporting.page import REPORT_PAGE, render, write_report_page
from bertsurgeon.reporting.structure import plan_rows

__all__ = [
    "CARD",
    "REPORT_PAGE",
    "ModelSource",
    "model_card",
    "model_source",
    "plan_rows",
    "render",
    "write_report_page",
]
