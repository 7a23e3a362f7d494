"""What is measured, how, and against what; behind `instaseg bench`."""
