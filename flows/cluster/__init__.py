"""Several machines, one queue: this clone's settings, and the exchange of code, files and records over git and DVC."""
