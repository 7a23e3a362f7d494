"""The page that shows where instances are lost."""
