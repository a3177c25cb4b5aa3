"""Surveys: what one pass over a base and its experts tells of their task vectors, kept in one small file."""
