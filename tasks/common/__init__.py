"""What every stage uses: paths, parameters, errors."""
