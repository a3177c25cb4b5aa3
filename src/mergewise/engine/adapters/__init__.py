"""Adapters as what comes out: merged in core space, or extracted from a whole expert."""
