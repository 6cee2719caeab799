"""Processes, files, provenance, precision."""
