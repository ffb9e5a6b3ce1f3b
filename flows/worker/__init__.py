"""Execution of queued runs, recovery after crashes, and reports on both."""
