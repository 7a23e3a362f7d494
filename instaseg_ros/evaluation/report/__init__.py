"""Writes a page that shows where instances are lost."""
