"""Measurements of the stages, on any machine: what a table in the documentation says comes from here."""
