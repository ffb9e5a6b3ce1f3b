"""Commands of `arc` and `make` that read finished results; no stage depends on them."""
