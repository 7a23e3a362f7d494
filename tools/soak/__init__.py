"""Runs the node for hours with faults, and checks what it promises: `make soak TIME=7200`.

`python -m soak` conducts: it starts the node and the cameras, each as a process, makes faults,
writes what it sees, and judges. docs/soak.md says what is checked.
"""
