"""Watches a running robot from beside, and judges what it sees: `instaseg doctor --live`."""
