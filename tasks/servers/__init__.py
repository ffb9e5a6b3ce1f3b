"""The servers of the pages: who may use them, how they start, run in the background and end."""
