"""The engine: recipe → plan → gather → combine → checkpoint, in bounded memory, the same bytes every time."""
