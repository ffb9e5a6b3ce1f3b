"""What an experiment can be: every setting as a frozen, validated type."""
