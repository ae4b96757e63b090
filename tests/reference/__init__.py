"""Slow, independent reference implementations for the tests; they import nothing of the six packages."""
