"""Commands on finished results; no stage depends on them."""
