"""Commands of `arc` and `make`, on finished results and on local servers; no stage depends on them."""
