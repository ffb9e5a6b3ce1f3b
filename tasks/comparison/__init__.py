"""Comparisons of finished results: which are meant, their paired differences, and the page that shows them."""
