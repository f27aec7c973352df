"""``auto``: one search over removed heads and neurons, low rank and aligned groups under one budget."""
