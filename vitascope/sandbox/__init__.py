"""Decoding media files: in this process, or in processes of its own that may do little else."""
