"""Audits: victims x attacks x clips, recorded in a ledger, resumable, summed up in ``audit.json``."""

from funnybone.auditing.run import Audit, audit
from funnybone.auditing.suites import Entry, Suite, create_suite, suite_names

__all__ = ["Audit", "Entry", "Suite", "audit", "create_suite", "suite_names"]
