"""One HTML page of all that is known of a fit: answers in, text and pictures out. Nothing is calculated here."""

from koopman_lora.report.answers import Answer as Answer
from koopman_lora.report.answers import Answers as Answers
from koopman_lora.report.page import page as page
from koopman_lora.report.page import write_report as write_report
