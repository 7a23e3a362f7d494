"""Many recordings: rows of what was evaluated, kept as Parquet and asked with SQL."""
