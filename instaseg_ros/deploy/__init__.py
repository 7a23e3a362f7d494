"""From weights to what runs on a machine: export, quantisation, and the check of both."""
